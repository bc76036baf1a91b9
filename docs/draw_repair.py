"""Draw a recorded rollback as SVG: `python docs/draw_repair.py [RECORD.jsonl] [OUT.svg]`, both in docs/ by default.

The record is the first row of a dump of rollbacks (verl_cleaner.records.rollbacks) that overwrote a turn.
"""

import difflib
import json
import sys
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

FOLDER = Path(__file__).resolve().parent
BOX, GAP, LINE, TOP = 300, 34, 18, 64
RED, GREEN, AMBER, GREY, BLUE, INK = "#b3261e", "#1b7f3b", "#8a5a00", "#6b7280", "#1f5fbf", "#1f2328"


def text(
    x: float, y: float, content: str, *, color: str = INK, size: int = 12, bold: bool = False, mono: bool = True
) -> str:
    family = "ui-monospace, Menlo, Consolas, monospace" if mono else "system-ui, sans-serif"
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" font-family="{family}" font-size="{size}"{weight} fill="{color}" '
        f'xml:space="preserve">{escape(content)}</text>'
    )


def box(column: int, height: int, title: str, *, dashed: bool = False, color: str = GREY) -> str:
    x = GAP / 2 + column * (BOX + GAP)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    frame = f'<rect x="{x}" y="{TOP}" width="{BOX}" height="{height}" rx="8" fill="#ffffff" stroke="{color}"{dash}/>'
    return frame + text(x, TOP - 10, title, color=color, bold=True, mono=False, size=13)


def chips(column: int, reasoning: str, call: str, colors: tuple[str, str]) -> str:
    x, y = GAP / 2 + column * (BOX + GAP) + 12, TOP + 12
    parts = []
    for offset, width, label, color in ((0, 96, reasoning, colors[0]), (100, 176, call, colors[1])):
        parts.append(
            f'<rect x="{x + offset}" y="{y}" width="{width}" height="22" rx="4" fill="{color}" fill-opacity="0.14"/>'
        )
        parts.append(text(x + offset + 8, y + 15, label, color=color, mono=False))
    return "".join(parts)


def lines(column: int, row: int, content: list[tuple[str, str]]) -> str:
    x = GAP / 2 + column * (BOX + GAP) + 12
    return "".join(text(x, TOP + 58 + (row + i) * LINE, line, color=color) for i, (line, color) in enumerate(content))


def draw(record: dict[str, Any]) -> str:
    """The failed turn, the side context with the error and the retry, and the turn that is trained on."""
    old, new = record["failed_call"].splitlines(), record["new_call"].splitlines()
    delta = list(difflib.ndiff(old, new))
    failed = [(line[2:], RED if line[0] == "-" else INK) for line in delta if line[0] in " -"]
    repaired = [(line[2:], GREEN if line[0] == "+" else INK) for line in delta if line[0] in " +"]
    error = [(line, AMBER) for line in wrap(record["error"], 38)]
    kept = record["strategy"] == "tool_call_only"
    middle, outer = 2 + len(error) + len(repaired), max(len(failed), len(repaired))
    height = max(22 + LINE * middle, 58 + LINE * outer) + 4
    width = 3 * (BOX + GAP)
    sign = "\u2265" if kept else "<"
    facts = (
        f"similarity {record['similarity']:.2f} {sign} \u03b3 = {record['threshold']:g}: "
        + (
            "the old reasoning stays, the new call replaces the failed one"
            if kept
            else "the whole retry replaces the turn"
        )
        + f" \u00b7 {record['generated']} tokens generated, {record['discarded']} discarded"
    )
    if record["gap"] is not None:
        facts += f" \u00b7 gap {record['gap']:+.2f} nats"
    body = [
        text(GAP / 2, 24, f"One rollback, as recorded at step {record['step']}", bold=True, mono=False, size=15),
        box(0, height, "1  failed turn", color=RED),
        chips(0, "reasoning R0", "tool call C0", (BLUE, RED)),
        lines(0, 0, failed),
        box(1, height, "2  side context, thrown away afterwards", dashed=True),
        lines(1, -2, [("R0 C0 and the tool's response:", GREY), *error, ("retry, with the error in view:", GREY)]),
        lines(1, len(error), repaired),
        box(2, height, "3  overwritten turn, trained on", color=GREEN),
        chips(2, "reasoning R0" if kept else "reasoning R1", "tool call C1", (BLUE, GREEN)),
        lines(2, 0, repaired),
        text(GAP / 2, TOP + height + 26, facts, color=GREY, mono=False, size=12),
    ]
    for column in (1, 2):
        x = GAP / 2 + column * (BOX + GAP) - GAP + 8
        y = TOP + height / 2
        body.append(f'<path d="M{x} {y} h14 m-6 -5 l6 5 l-6 5" fill="none" stroke="{GREY}" stroke-width="1.6"/>')
    total = TOP + height + 44
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}">'
        f'<rect width="{width}" height="{total}" fill="#fbfbfa"/>' + "".join(body) + "</svg>\n"
    )


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "repair.jsonl"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else FOLDER / "repair.svg"
    rows = (json.loads(line) for line in source.read_text(encoding="utf-8").splitlines())
    record = next((row for row in rows if row["result"] == "overwritten"), None)
    if record is None:
        sys.exit(f"{source} has no row with result overwritten")
    target.write_text(draw(record), encoding="utf-8")


if __name__ == "__main__":
    main()
