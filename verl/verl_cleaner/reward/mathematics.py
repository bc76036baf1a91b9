r"""Mathematics and science: the last \boxed{…} equals the ground truth character by character, +1 or -1.

This strict rule is what the published runs were trained with; it fails `1,000` for `1000`. Where asked for,
math-verify's opinion is given beside it (`verify`), under a limit of time. That lenient rule also reads other boxes
(`answers.last_answer`) and other notations (`notation.latex`).
"""

from collections.abc import Awaitable, Callable
from typing import Any

from verl_cleaner.reward.answers import last_answer, last_boxed
from verl_cleaner.reward.notation import latex
from verl_cleaner.reward.result import Reward, answer_reward
from verl_cleaner.reward.truths import accepted

Verify = Callable[[str, str], Awaitable[bool]]
"""(answer, ground truth) -> whether they mean the same."""


async def score(response: str, ground_truth: Any, *, verify: Verify | None = None) -> Reward:
    """ground_truth: see `truths.accepted`."""
    pred, truths = last_boxed(response), accepted(ground_truth)
    right = pred in truths
    if verify is None:
        return answer_reward(pred, right=right)
    given = last_answer(response)
    verified = given is not None and (given in truths or await _any(verify, given, truths))
    return answer_reward(pred, right=right, verified=verified)


async def _any(verify: Verify, answer: str, truths: tuple[str, ...]) -> bool:
    for truth in truths:
        if await verify(latex(answer), latex(truth)):
            return True
    return False
