r"""Multiple choice: the last \boxed{…} is the ground truth's letter, +1 or -1.

Strict as for mathematics. Beside it, a letter in other clothes counts: `\text{B}`, `(B)`, `b`, `B.`, `B) 42 m/s`.
"""

import re

from verl_cleaner.reward.answers import last_boxed
from verl_cleaner.reward.result import Reward, answer_reward

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|boxed)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"\(?([A-Za-z])(?:[).:,].*)?", re.DOTALL)


def score(response: str, ground_truth: str) -> Reward:
    pred = last_boxed(response)
    if pred is None:
        return answer_reward(None, right=False)
    return answer_reward(pred, right=pred == ground_truth, verified=letter(pred) == ground_truth.strip().upper())


def letter(answer: str) -> str | None:
    """The choice that is meant, None where that is not clear."""
    found = _LETTER.fullmatch(_WRAPPED.sub(r"\1", answer).replace("$", "").strip())
    return found[1].upper() if found else None
