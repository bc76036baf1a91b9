"""The difference between two calls: changed lines, and the changed characters in them."""

import difflib
from dataclasses import dataclass

_MAX_LINE = 400
"""Characters of a line; longer lines are compared as a whole."""
_MAX_LINES = 2000
_MAX_PAIRS = 100
"""How many pairs of changed lines are compared by character; the other lines are compared as a whole."""


@dataclass(frozen=True, slots=True)
class DiffLine:
    """sign: "-" only in the failed call, "+" only in the new one, " " in both. parts: (changed, text), in order."""

    sign: str
    parts: tuple[tuple[bool, str], ...]


def diff(old: str, new: str) -> list[DiffLine]:
    one, other = old.splitlines(), new.splitlines()
    if len(one) + len(other) > _MAX_LINES:
        return [_whole("-", line) for line in one] + [_whole("+", line) for line in other]
    lines: list[DiffLine] = []
    left = _MAX_PAIRS
    for tag, a, b, c, d in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag == "equal":
            lines += [DiffLine(" ", ((False, line),)) for line in one[a:b]]
        elif tag == "replace" and b - a == d - c <= left:
            left -= b - a
            pairs = [_pair(x, y) for x, y in zip(one[a:b], other[c:d], strict=True)]
            lines += [old_line for old_line, _ in pairs] + [new_line for _, new_line in pairs]
        else:
            lines += [_whole("-", line) for line in one[a:b]] + [_whole("+", line) for line in other[c:d]]
    return lines


def _whole(sign: str, line: str) -> DiffLine:
    return DiffLine(sign, ((True, line),))


def _pair(old: str, new: str) -> tuple[DiffLine, DiffLine]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if max(len(old), len(new)) > _MAX_LINE or matcher.quick_ratio() < 0.4 or matcher.ratio() < 0.4:
        return _whole("-", old), _whole("+", new)
    codes = matcher.get_opcodes()
    minus = tuple((tag != "equal", old[a:b]) for tag, a, b, _, _ in codes if b > a)
    plus = tuple((tag != "equal", new[c:d]) for tag, _, _, c, d in codes if d > c)
    return DiffLine("-", minus), DiffLine("+", plus)
