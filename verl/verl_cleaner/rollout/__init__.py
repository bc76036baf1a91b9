"""Samples trajectories: VeRL's agent loop with SAAR around it, the tools, and the workers that run both.

Start reading at `tool_agent_loop.ToolAgentLoop._handle_rollback`.
"""
