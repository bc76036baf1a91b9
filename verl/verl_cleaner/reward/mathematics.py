r"""Mathematics and science: the last \boxed{…} equals the ground truth character by character, +1 or -1.

This strict rule is what the published runs were trained with; it fails `1,000` for `1000`. Where asked for,
math-verify's opinion is given beside it (`verify`), under a limit of time.
"""

from collections.abc import Awaitable, Callable

from verl_cleaner.reward.answers import last_boxed
from verl_cleaner.reward.result import Reward, answer_reward

Verify = Callable[[str, str], Awaitable[bool]]
"""(answer, ground truth) -> whether they mean the same."""


async def score(response: str, ground_truth: str, *, verify: Verify | None = None) -> Reward:
    pred = last_boxed(response)
    if pred is None:
        return answer_reward(None, right=False)
    right = pred == ground_truth
    # What is equal as text needs no computer algebra.
    verified = right or (verify is not None and await verify(pred, ground_truth))
    return answer_reward(pred, right=right, verified=verified)
