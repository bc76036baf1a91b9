"""docs/tour.md and the trees of rooms: what they link to and name is there."""

import ast
import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOUR = REPOSITORY / "docs" / "tour.md"
TEXT = TOUR.read_text(encoding="utf-8")
STOPS = re.findall(r"\[`([^`]+)`\]\(([^)]+)\)", TEXT)


def names(path):
    """Of functions, methods and classes, and of module constants."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
    return found


@pytest.mark.parametrize(("name", "link"), STOPS)
def test_a_stop_is_defined_in_the_linked_file(name, link):
    assert name in names(TOUR.parent / link)


def test_the_tour_has_its_stops_and_every_link_leads_somewhere():
    assert len(STOPS) > 20
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert [link for link in links if not (TOUR.parent / link).exists()] == []


def test_the_call_of_the_tour_is_the_recorded_one():
    row = json.loads((TOUR.parent / "repair.jsonl").read_text(encoding="utf-8").splitlines()[0])
    block = re.search(r"```\n(.*?)```", TEXT, re.DOTALL)[1]
    for text in (row["failed_call"], row["new_call"], row["error"]):
        for line in text.splitlines():
            assert line in block
    last = row["span_end"] - 1
    for said in (
        f"{row['similarity']} here, above the threshold of {row['threshold']}",
        f"the strategy `{row['strategy']}`",
        f"Tokens {row['span_start']} to {last} of the response",
        f"here by {-row['gap']:.3f} nats",
        f"Here the kind is `{row['kinds'][0]}`",
    ):
        assert said in TEXT.replace("\n", " ")


# ---- CONTRIBUTING.md -------------------------------------------------------------------------------------------------


def tree():
    """Folders of the tree in CONTRIBUTING.md, as paths."""
    block = re.search(r"```\n(verl/.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    above, found = [], []
    for indent, folder in re.findall(r"^( *)(\S+/) ", block, re.MULTILINE):
        above = [*above[: len(indent) // 2], folder]
        found.append("".join(above).rstrip("/"))
    return found


def test_every_room_has_a_line_and_every_line_a_room():
    found = tree()
    assert [folder for folder in found if not (REPOSITORY / folder).is_dir()] == []
    packages = {
        str(path.parent.relative_to(REPOSITORY))
        for package in ("verl_cleaner", "cleaner_lab")
        for path in (REPOSITORY / "verl" / package).rglob("*.py")
    }
    # What only lets VeRL run on CPU is part of its room.
    assert packages - set(found) - {"verl/verl_cleaner/engine/cpu"} == set()
