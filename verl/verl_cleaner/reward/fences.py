r"""The last program in a text with Markdown code blocks, as models write them.

A block begins with a fence of three or more backticks or tildes and ends

    1. at the next fence that is not inside a Python string or comment, so that a docstring may hold a code block;
    2. else at the next line that holds nothing but a fence;
    3. else at the next fence, wherever it is;
    4. else at the end of the text.

The first of these ends that gives a source which Python reads is taken. What follows the closing fence on its line
(prose, an end token) is ignored.

A block counts as a program if it is marked as Python. It also counts if it has no mark, Python reads it, and it
defines, imports or calls something. The last such block wins, with two exceptions. A block without a mark that follows
one marked as Python must define, import or read input; the output of an example does not. A last block that is cut off
in the middle of a statement does not replace a complete one.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

_OPENING = re.compile(r"(?P<before>[^\n]*?)(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)(?:\n|\Z)")
_ONE_LINE = re.compile(
    r"[ \t]*(?P<fence>`{3,})[ \t]*(?:python3?|py)[ \t]+(?P<code>[^`\n]+?)(?P=fence)[ \t\r]*(?:\n|\Z)", re.I
)
_PYTHON = re.compile(r"\{?\.?(?:python|py|pypy|ipython)[\d.]*(?![-\w])", re.IGNORECASE)
_LANGUAGE = re.compile(r"\{?\.?[\w+#.-]+\}?")
"""Of a fence's line: the name of a language alone, so that the fence begins a block."""
_TOKEN = re.compile(
    r"\"\"\"(?:\\.|(?!\"\"\").)*+(?:\"\"\"|\Z)|'''(?:\\.|(?!''').)*+(?:'''|\Z)"
    r"|\"(?:\\.|[^\"\\\n])*+\"?|'(?:\\.|[^'\\\n])*+'?|\#[^\n]*+|(?P<fence>`{3,}|~{3,})",
    re.DOTALL,
)
"""Strings, comments and fences. A string that is not closed ends with its line, or with the text: nothing is read
twice."""
_END_TOKEN = re.compile(r"(?:<\|[^<>|\n]{1,40}\|>|</s>|<eos>|<end_of_turn>|<｜[^<>｜\n]{1,40}｜>)\Z")
_MOST_FENCES = 200
"""Of a response that are looked at, from the end: every block is read up to four times."""
_BOM = "\ufeff"


class _Mark(Enum):
    PYTHON = auto()
    NONE = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class _Block:
    code: str
    mark: _Mark
    closed: bool


def last_program(text: str) -> str | None:
    """The source in the last block that counts as a program; None where there is none."""
    text = text.removeprefix(_BOM)
    fences = [match.start() for match in re.finditer("`{3,}|~{3,}", text)]
    if len(fences) > _MOST_FENCES:
        text = text[text.rfind("\n", 0, fences[-_MOST_FENCES]) + 1 :]
    found: _Block | None = None
    for block in _blocks(text):
        marked = found is not None and found.mark is _Mark.PYTHON
        if block.mark is _Mark.OTHER:
            continue
        if block.mark is _Mark.NONE and not _is_program(block.code, whole=marked):
            continue
        if found is not None and not block.closed and parsed(block.code) is None:
            continue
        found = block
    return None if found is None else found.code


def parsed(code: str) -> ast.Module | None:
    """The syntax tree, None where Python does not read the code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_program(code: str, *, whole: bool) -> bool:
    """Whether an unmarked block is Python that does something. whole: more than a call, as an example would have it."""
    tree = parsed(code)
    if tree is None:
        return False
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
            return True
        if isinstance(node, ast.Name) and node.id == "input":
            return True
        if isinstance(node, ast.Call) and not whole:
            return True
    return False


def _blocks(text: str) -> Iterator[_Block]:
    position = 0
    while position < len(text):
        one_line = _ONE_LINE.match(text, position)
        if one_line:
            yield _Block(one_line["code"], _Mark.PYTHON, closed=True)
            position = one_line.end()
            continue
        opening = _OPENING.match(text, position)
        if opening is None or not _opens(opening):
            position = _next_line(text, position)
            continue
        start, end = opening.end(), _end(text, opening.end(), opening["fence"], _indent(opening))
        info = opening["info"].strip()
        mark = _Mark.NONE if not info else _Mark.PYTHON if _PYTHON.match(info) else _Mark.OTHER
        yield _Block(_source(text, start, end, _indent(opening), mark), mark, closed=end < len(text))
        position = _after(text, end)


def _opens(line: re.Match[str]) -> bool:
    """Prose may stand before a fence that is marked as Python; a fence of backticks has none behind it."""
    if line["fence"][0] == "`" and "`" in line["info"]:
        return False
    return not line["before"].strip() or bool(_PYTHON.fullmatch(line["info"].strip()))


def _indent(line: re.Match[str]) -> int:
    return len(line["before"].expandtabs(4)) if not line["before"].strip() else 0


def _end(text: str, start: int, fence: str, indent: int) -> int:
    """Where the code of a block ends that begins at `start`."""
    mark = re.escape(fence[0])
    own_line = re.compile(rf"^[ \t]*{mark}{{{len(fence)},}}[ \t\r]*$", re.MULTILINE)
    ends = [_outside_strings(text, start, fence)]
    for pattern in (own_line, re.compile(mark + "{3,}")):
        match = pattern.search(text, start)
        ends.append(None if match is None else match.start() + _blanks(match[0]))
    known = [end for end in ends if end is not None] or [len(text)]
    for end in dict.fromkeys(known):
        if parsed(_source(text, start, end, indent, _Mark.PYTHON)) is not None:
            return end
    # Python reads none of them: the next line that begins with a fence.
    line = re.compile(rf"^[ \t]*(?={mark}{{{len(fence)},}})", re.MULTILINE).search(text, start)
    return line.end() if line else known[0]


def _outside_strings(text: str, start: int, fence: str) -> int | None:
    for token in _TOKEN.finditer(text, start):
        found = token["fence"]
        if not found or found[0] != fence[0] or len(found) < len(fence):
            continue
        # A tilde is an operator of Python.
        if fence[0] == "`" or not text[text.rfind("\n", 0, token.start()) + 1 : token.start()].strip():
            return token.start()
    return None


def _source(text: str, start: int, end: int, indent: int, mark: _Mark) -> str:
    """The block's text as a source: without the fence's indentation, a byte-order mark, and end tokens at the end."""
    code = text[start:end].removeprefix(_BOM)
    if end == len(text):
        code = _without_end_tokens(code)
    lines = code.split("\n")
    # What stands before the closing fence on its line.
    if not lines[-1].strip():
        lines[-1] = ""
    if indent:
        lines = [line[min(indent, _blanks(line)) :] for line in lines]
    if mark is _Mark.NONE and _PYTHON.fullmatch(lines[0].strip()):
        # The language stands on a line of its own.
        lines = lines[1:]
    code = "\n".join(lines)
    dedented = textwrap.dedent(code)
    return dedented if dedented != code and parsed(code) is None else code


def _without_end_tokens(code: str) -> str:
    while found := _END_TOKEN.search(code.rstrip(), max(0, len(code.rstrip()) - 60)):
        code = code[: found.start()]
    return code


def _blanks(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _after(text: str, end: int) -> int:
    """Where to go on: at the closing fence itself where it names a language and so begins the next block."""
    line = text[end : _next_line(text, end)]
    fence = re.match(r"[`~]+", line)
    if fence and _LANGUAGE.fullmatch(line[fence.end() :].strip()):
        return end
    return _next_line(text, end)


def _next_line(text: str, position: int) -> int:
    found = text.find("\n", position)
    return len(text) if found < 0 else found + 1
