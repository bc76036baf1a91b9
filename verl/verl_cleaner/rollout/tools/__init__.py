"""Other people's tools: what a tool tells SAAR, and how its calls are run. docs/tools.md is the guide.

    contract    what a tool declares, or the configuration says of it
    verdict     exceptions, HTTP statuses and texts -> outcomes
    stand_in    runs the calls of a tool and notes how they ended
    state       what tools keep of a trajectory, to go back to

A tool needs none of it to work.
"""

from verl_cleaner.rollout.tools.contract import ToolContract, tool_contract
from verl_cleaner.saar.outcome import InfrastructureError, ToolOutcome

__all__ = ["InfrastructureError", "ToolContract", "ToolOutcome", "tool_contract"]
