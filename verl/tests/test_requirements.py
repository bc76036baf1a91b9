"""requirements.txt is what uv.lock says, and the distributions ask for what their modules import."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PATH = f"{ROOT / '.venv-uv' / 'bin'}:{os.environ['PATH']}"


@pytest.mark.skipif(shutil.which("uv", path=PATH) is None, reason="needs uv, which tests/run.sh installs")
def test_requirements_are_the_locked_ones(tmp_path):
    command = ["bash", "tests/export_requirements.sh", str(tmp_path / "requirements.txt")]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": PATH}, check=True)
    exported = (tmp_path / "requirements.txt").read_text()
    assert (ROOT / "requirements.txt").read_text() == exported, "run: bash tests/export_requirements.sh"


# ---- what is imported is asked for -----------------------------------------------------------------------------------

EXTRAS = {
    "report": "report",
    "report/dashboards.py": "wandb",
    "inspect.py": "report",
    "dataset/filter_report.py": "report",
    "evaluation": "eval",
    "reward": "eval",
}
"""Which extra a room of verl_cleaner may use; cleaner_lab has all of [lab]."""


def closure(requirements):
    """Names of all that pip brings for these, by the metadata of what is installed."""
    found, waiting = set(), [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in requirement.extras or {""}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                below = map(Requirement, requires(requirement.name) or ())
            except PackageNotFoundError:
                continue
            waiting += [one for one in below if one.marker is None or one.marker.evaluate({"extra": extra})]
            if extra:
                waiting.append(Requirement(requirement.name))
    return {name for name, _ in found}


def imported(module):
    """Top-level packages, also of imports inside functions."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_modules_import_what_their_distribution_asks_for():
    project = tomllib.loads((ROOT / "verl" / "pyproject.toml").read_text())["project"]
    judge = tomllib.loads((ROOT / "code-judge" / "pyproject.toml").read_text())["project"]["dependencies"]
    core = [*project["dependencies"], *judge]
    own = {"verl", "verl_cleaner", "code_judge", "cleaner_lab"}
    extras = {name: closure([*core, *rest]) for name, rest in project["optional-dependencies"].items() if name != "lab"}
    extras |= {"": closure(core), "lab": extras["report"] | extras["eval"]}
    distributions = packages_distributions()
    missing = []
    for package in ("verl_cleaner", "cleaner_lab"):
        for module in (ROOT / "verl" / package).rglob("*.py"):
            path = str(module.relative_to(ROOT / "verl" / package))
            extra = "lab" if package == "cleaner_lab" else EXTRAS.get(path, EXTRAS.get(path.partition("/")[0], ""))
            for name in set(imported(module)) - own - sys.stdlib_module_names:
                names = {canonicalize_name(one) for one in distributions.get(name, [name])}
                if not names & extras[extra]:
                    missing.append(f"{package}/{path} imports {name}, which [{extra or 'the core'}] does not ask for")
    assert missing == []
