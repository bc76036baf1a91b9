"""slurm.sh with stand-ins for SLURM's commands: what it starts, on which nodes, and what the recipe gets."""

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

SRUN = """#!/usr/bin/env bash
# Writes down what is to run where; runs the recipe.
printf '%s\\n' "$*" >> "$LOG"
while [[ $1 == --* ]]; do
  case $1 in --overlap) shift ;; *) shift 2 ;; esac
done
if [[ $1 == bash && $2 != -c ]]; then exec "$@"; fi
"""
RECIPE = """echo "$RAY_ADDRESS $CODE_JUDGE_URL $NNODES $NUM_GPU $PYTHON $1"
echo "$((${#RAY_AUTH_TOKEN} > 20)) $RAY_AUTH_MODE"
"""


@pytest.fixture
def allocation(tmp_path):
    """Returns a function that runs slurm.sh on nodes, `joined` of which join Ray: (process, what srun was asked)."""

    def run(*nodes, joined):
        scripts = {
            "scontrol": "#!/bin/sh\nprintf '%s\\n' " + " ".join(nodes),
            "srun": SRUN,
            "python": f"#!/bin/sh\necho {joined}",
            "sleep": "#!/bin/sh",
        }
        for name, text in scripts.items():
            file = tmp_path / name
            file.write_text(text)
            file.chmod(0o755)
        (tmp_path / "recipe.sh").write_text(RECIPE)
        (tmp_path / "log").touch()
        process = subprocess.run(
            ["bash", "recipe/cleaner/slurm.sh", str(tmp_path / "recipe.sh"), "trainer.total_epochs=3"],
            cwd=REPOSITORY,
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "LOG": str(tmp_path / "log"),
                "PYTHON": str(tmp_path / "python"),
                "SLURM_JOB_NODELIST": "n[1-2]",
                "SLURM_NNODES": str(len(nodes)),
                "SLURM_GPUS_ON_NODE": "8",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        return process, (tmp_path / "log").read_text().splitlines()

    return run


def test_what_runs_where(allocation, tmp_path):
    process, asked = allocation("n1", "n2", joined=2)
    assert process.returncode == 0, process.stderr
    first, second = process.stdout.splitlines()
    assert first == f"n1:6380 http://n1:8088 2 8 {tmp_path}/python trainer.total_epochs=3"
    assert second == "1 token"
    on_first = [line for line in asked if "--nodelist n1" in line]
    everywhere = [line for line in asked if "--nodes 2 --ntasks 2" in line]
    others = [line for line in asked if "--nodes 1 --ntasks 1 --exclude n1" in line]
    assert len(asked) == len(on_first) + len(everywhere) + len(others) == 6
    for what in ("redis-server", "uvicorn app.main:app", "start --head --port 6380", "recipe.sh"):
        assert sum(what in line for line in on_first) == 1, what
    assert "run_workers.py" in everywhere[0]
    assert "start --address n1:6380" in others[0]


def test_one_node_needs_no_others(allocation):
    process, asked = allocation("n1", joined=1)
    assert process.returncode == 0, process.stderr
    assert not any("--exclude" in line for line in asked)


def test_nodes_that_do_not_join_are_counted(allocation):
    process, _ = allocation("n1", "n2", joined=1)
    assert process.returncode != 0
    assert "error: 1 of 2 nodes joined Ray" in process.stderr


def test_the_secret_is_in_no_argument(allocation):
    """Arguments are visible to everybody on a node."""
    _, asked = allocation("n1", "n2", joined=2)
    assert not any("redis://" in line or ("requirepass" in line and "$REDIS_SECRET" not in line) for line in asked)
