"""requirements.txt is what uv.lock says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = f"{ROOT / '.venv-uv' / 'bin'}:{os.environ['PATH']}"


@pytest.mark.skipif(shutil.which("uv", path=PATH) is None, reason="needs uv, which tests/run.sh installs")
def test_requirements_are_the_locked_ones(tmp_path):
    command = ["bash", "tests/export_requirements.sh", str(tmp_path / "requirements.txt")]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": PATH}, check=True)
    exported = (tmp_path / "requirements.txt").read_text()
    assert (ROOT / "requirements.txt").read_text() == exported, "run: bash tests/export_requirements.sh"
