"""The tables of docs/answers.md, which the tests share with its readers."""

import re
from pathlib import Path

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "answers.md"
_MARKS = {"⏎": "\n", "␍": "\r", "⇥": "\t", "<BOM>": "\ufeff"}


def table(title: str) -> list[list[str]]:
    """The rows under the heading, without the header; code cells as the text they stand for."""
    page = _PAGE.read_text(encoding="utf-8")
    section = page.split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[_cell(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def _cell(cell: str) -> str:
    text = cell.strip()
    fence = re.match("`*", text)[0]
    if not fence:
        return text
    text = text.removeprefix(fence).removesuffix(fence).replace("\\|", "|")
    if len(fence) > 1:
        text = text[1:-1]
    for mark, character in _MARKS.items():
        text = text.replace(mark, character)
    return text
