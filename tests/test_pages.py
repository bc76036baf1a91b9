"""What README and docs point at exists: files, modules, scripts and parameters."""

import importlib.util
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from verl_cleaner.saar.config import RollbackConfig

REPOSITORY = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
PAGES = [REPOSITORY / name for name in TRACKED.stdout.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_page_points_only_at_what_exists(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for module in re.findall(r"python -m ((?:verl_cleaner|code_judge)[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module
    for script in re.findall(r"bash ((?:recipe|tests|dataset)/[\w/.-]+\.sh)", text):
        assert (REPOSITORY / script).exists(), script
    known = {field.name for field in fields(RollbackConfig)}
    for key in re.findall(r"\+actor_rollout_ref\.rollout\.multi_turn\.(\w+)", text):
        assert key in known, key


def test_there_are_pages():
    assert REPOSITORY / "README.md" in PAGES
