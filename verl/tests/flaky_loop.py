"""An agent loop that loses chosen trajectories and has a pair in every other, and a reward, for test_end_to_end.py."""

from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop
from verl_cleaner.saar.outcome import InfrastructureError
from verl_cleaner.saar.pair import Pair

LOST_IN_TRAINING = {(3, 1), (13, 0), (14, 0)}
"""(index, session): one group of the first step's ten, two of the second's."""
LOST_AT_VALIDATION = {(0, 0)}


class FlakyLoop(ToolAgentLoop):
    async def run(self, sampling_params, priority=0, **kwargs):
        lost = LOST_AT_VALIDATION if kwargs["is_validation"] else LOST_IN_TRAINING
        if (int(kwargs["index"]), kwargs["session_id"]) in lost:
            raise InfrastructureError("the judge is on holiday")
        output = await super().run(sampling_params, priority, **kwargs)
        if output.pairs is not None:
            output.pairs = [Pair(0, 1, (65, 66))]
        return output


def reward(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """The score varies within a group; every answer is right. Without the policy's words every trajectory is lost."""
    assert len(extra_info["policy_turns"]) == 1
    return {"score": float(len(solution_str) % 2), "acc": 1.0}
