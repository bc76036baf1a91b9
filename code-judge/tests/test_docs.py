"""What the guides claim about settings, layers and files."""

import re
from pathlib import Path

from code_judge.sandbox.layers import LAYERS
from code_judge.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


def rows(name: str) -> list[list[str]]:
    lines = (DOCS / name).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_settings_are_those_of_the_guide() -> None:
    documented = {}
    for names, default, *_ in (row for row in rows("judge-deployment.md") if len(row) == 3):
        found = re.findall(r"`([A-Z_]{5,})`", names)
        values = default.split(", ") if len(found) > 1 else [default.strip("`")] * len(found)
        documented.update(zip(found, values, strict=True))
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    assert set(documented) == set(fields)
    for name, default in documented.items():
        if fields[name].default_factory is None:
            assert (str(fields[name].default) if fields[name].default else "–") == default, name


def test_the_layers_are_those_of_the_guide() -> None:
    named = [
        name for cell, *_ in rows("judge-threat-model.md") for name in re.findall(r"^`(\w+)`(?:, `(\w+)`)?$", cell)
    ]
    assert {name for pair in named for name in pair if name} == set(LAYERS)


def test_the_tests_that_the_guides_name_exist() -> None:
    for guide in DOCS.glob("judge-*.md"):
        for name, _, test in re.findall(r"(test_\w+\.py)(::(test_\w+))?", guide.read_text()):
            files = (folder / name for folder in (Path(__file__).parent, DOCS.parent / "verl" / "tests"))
            file = next((file for file in files if file.exists()), None)
            assert file is not None, name
            assert not test or f"def {test}(" in file.read_text(), f"{name}::{test}"
