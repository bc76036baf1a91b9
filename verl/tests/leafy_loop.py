"""An agent loop whose scores and leaves are known beforehand, for test_leaf_training.py."""

from dataclasses import asdict

from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop
from verl_cleaner.saar.leaf import Leaf
from verl_cleaner.saar.outcome import InfrastructureError
from verl_cleaner.saar.record import Retry, RetryResult

SCORES = {0: [1, 1, 1, 1], 1: [1, 0, 1, 0], 2: [0, 0, 1, 0], 3: [0, 0, 0, 0]}
SCORES |= {digit: [0, 1, 1, 1] for digit in range(4, 9)}
"""By the last digit of the row's index and by session. Groups of digit 9 are lost."""
LEAVES = {(0, 0): 2, (0, 3): 1, (2, 1): 1, (3, 2): 1}
"""(digit, session): how many. A leaf has four tokens, the second one of a trajectory eight."""
LOST = 9
FAILED = (1, 0)
"""(digit, session) with a failed call that stands at FAILED_SPAN, and one that was overwritten."""
FAILED_SPAN = (1, 3)
RETRY = asdict(Retry(1, ("NameError",), RetryResult.OVERWRITTEN, "", ""))


class LeafyLoop(ToolAgentLoop):
    async def run(self, sampling_params, priority=0, **kwargs):
        group, session = int(kwargs["index"]) % 10, kwargs["session_id"]
        if group == LOST and session == 1 and not kwargs["is_validation"]:
            raise InfrastructureError("the judge is on holiday")
        validate = kwargs["is_validation"]
        output = await super().run(sampling_params, priority, **kwargs)
        output.reward_score = float(SCORES.get(group, [0] * 4)[session])
        output.extra_fields["reward_extra_info"] = {"acc": output.reward_score}
        if (group, session) == FAILED:
            record = output.extra_fields["rollback_record"]
            failed = {"turn": 1, "kinds": ("NameError",), "seconds": (0.1,)}
            record["attempts"] = [failed | {"span": (0, 9)}, failed | {"span": FAILED_SPAN}]
            record["retries"] = [RETRY | {"result": "overwritten"}, RETRY | {"result": "no_call"}]
        if output.leaves is not None:
            assert not validate
            count = LEAVES.get((group, session), 0)
            logprobs = None if output.response_logprobs is None else (-3.0,)
            output.leaves = [
                Leaf(number, tuple(range(65, 69 + 4 * number)), logprobs and logprobs * (4 + 4 * number))
                for number in range(count)
            ]
        return output


def reward(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    raise AssertionError("the loop gives the score")


def wrong_answer_score(data_source, **kwargs):
    assert data_source == "tiny"
    return kwargs["low"]
