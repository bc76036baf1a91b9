"""What users install: the wheels, away from the checkout. A minute."""

import os
import subprocess
from pathlib import Path

import pytest


@pytest.mark.end_to_end(1)
def test_the_wheels_work():
    process = subprocess.run(
        ["bash", Path(__file__).with_name("wheels.sh")],
        env={key: value for key, value in os.environ.items() if key != "CODE_JUDGE_URL"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stdout
    assert "the wheels work" in process.stdout
