r"""Multiple choice: the last \boxed{…} is the ground truth's letter, +1 or -1.

Strict as for mathematics. Beside it, a letter that is written differently counts: `\text{B}`, `**B**`, `（b）`,
`Option B`, `B) 42 m/s`. An answer that names two choices has no letter. docs/answers.md lists what is read and what is
not.
"""

import re
import unicodedata
from typing import Any

from verl_cleaner.reward.answers import last_answer, last_boxed
from verl_cleaner.reward.result import Reward, answer_reward
from verl_cleaner.reward.truths import accepted

_COMMANDS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|sl|up|md|normal|circled)?|math(?:bf|it|rm|sf|tt|bb|cal|frak|scr|normal)|boldsymbol|bm|"
    r"pmb|bold|operatorname|emph|underline|mbox|hbox|d?boxed|fbox|framebox|circled|ensuremath|displaystyle|left|right|"
    r"bf|it|rm|sf|tt|bfseries|itshape|large|Large|LARGE|huge|Huge|normalsize)(?![A-Za-z])\*?"
)
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_SPACE = re.compile(r"\\[ ,;:!]|\\q?quad(?![A-Za-z])|\\\\|~")
_SIGNS = re.compile(r"\\?\$|\\[()\[\]]|(?<!\\)[{}]|\\[{}]")
_EMPHASIS = re.compile(r"(\*{1,3}|`|(?<!\w)_{1,2}(?=[A-Za-z]_))([^*`_]+)\1")
_ANSWER = re.compile(
    r"(?:(?:(?:the|my|our|so|thus|hence|final|correct|best|right)[\s,]+)*"
    r"(?:ans(?:wer)?\.?|option|choice|letter)\s*(?:is|[:=-])?\s*(?:(?:option|choice|letter)\s*)?:?\s*)?"
    r"(?P<open>[(\[<\"'“‘«【「])?\s*(?P<letter>[A-Z])(?:\s*(?P<close>[)\]>\"'”’»】」]))?(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_ENDS = re.compile(
    r"\s*[.,;:!)\]]*\s*|\s+is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice))?\s*\.?\s*", re.I
)
# A single letter or two behind the dot are an abbreviation: e.g., D.C.
_SEPARATED = re.compile(r"\s*(?:[:)]|\.(?![A-Za-z]{1,2}\b)|[,;])\s*|\s+[-–]\s+|\s*—\s*")
_LONGEST = 2000
"""Characters of an answer that is read."""
_QUOTES = ('"', "'", "”", "’", "»", ">")
_OPERATOR = re.compile(r"\s*[-+*/^_=<>|&]")
_ALTERNATIVE = re.compile(
    r"\W*(?:or|and|nor|and/or|vs\.?|/|&)\s*(?:(?:option|choice|answer)\s+)?\W*[A-Za-z](?![A-Za-z])", re.I
)
_MARKED = re.compile(r"(?<![\w\\^(])(?:\([A-J]\)|[A-J]\))|(?:^|[\s,;])[A-J][.:]\s+\S")
_LETTERS_ONLY = re.compile(
    r"(?:[\W_]|\b(?:or|and|nor|maybe|perhaps|possibly|either|both|option|choice)\b|\b[A-Za-z]\b)+", re.I
)


def score(response: str, ground_truth: Any) -> Reward:
    """ground_truth: see `truths.accepted`."""
    pred, given, truths = last_boxed(response), last_answer(response), accepted(ground_truth)
    verified = given is not None and letter(given) in {truth.strip().upper() for truth in truths}
    return answer_reward(pred, right=pred in truths, verified=verified)


def letter(answer: str) -> str | None:
    """The choice that is meant, None where that is not clear."""
    found = _ANSWER.fullmatch(_plain(answer)) if len(answer) <= _LONGEST else None
    if found is None or (found["close"] in _QUOTES and not found["open"]):
        return None
    choice, rest = found["letter"], found["rest"]
    if _ENDS.fullmatch(rest):
        return choice.upper()
    separator = _SEPARATED.match(rest)
    if separator is not None and not (found["open"] and not found["close"] and "," in separator[0]):
        content = rest[separator.end() :]
        # A small letter with a dash is a difference: a - 3 b.
        clear = choice.isupper() or not re.search("[-–—]", separator[0])
    else:
        content = rest
        clear = found["close"] in (")", "]", "】", "」") and not _OPERATOR.match(rest) and not rest[:1].isalnum()
    return choice.upper() if clear and not _names_another(choice, content) else None


def _plain(answer: str) -> str:
    """Without markup of LaTeX and Markdown, in ASCII where there is such a character."""
    text = unicodedata.normalize("NFKC", answer)
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    for pattern, replacement in ((_COLOUR, ""), (_COMMANDS, ""), (_SPACE, " "), (_SIGNS, "")):
        text = pattern.sub(replacement, text)
    return " ".join(_EMPHASIS.sub(r"\2", text).split())


def _names_another(choice: str, content: str) -> bool:
    """Whether what follows a choice is, or marks, another one."""
    if _ALTERNATIVE.match(content) or _MARKED.search(content):
        return True
    if not _LETTERS_ONLY.fullmatch(content):
        return False
    return any(word.isupper() == choice.isupper() for word in re.findall(r"\b[A-Za-z]\b", content))
