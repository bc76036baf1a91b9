"""The judge over two hosts of docs/multi-node.md, on network namespaces; the training over them is run by hand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "recipe/cleaner/two_hosts.sh"
TOOLS = ("ip", "nsenter", "unshare", "redis-server", "curl", "pkill")


def namespaces() -> bool:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        return False
    # Needs CAP_NET_ADMIN and CAP_SYS_ADMIN, which containers may lack.
    probe = "ip link add name probe0 type veth peer name probe1 && mount -t tmpfs none /mnt"
    return subprocess.run(["unshare", "--net", "--mount", "sh", "-c", probe], capture_output=True).returncode == 0


def run(*arguments, **environment):
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.mark.skipif(not namespaces(), reason="network namespaces need root and iproute2")
def test_no_program_is_lost_with_a_hosts_judge_workers(tmp_path):
    process = run("--judge", OUTPUT_DIR=str(tmp_path / "out"))
    assert process.returncode == 0, process.stdout + process.stderr
    assert "killed the judge workers of host worker" in process.stdout
    counts = re.search(r"64 programs: (\d+) ran on head, (\d+) on worker, 0 lost", process.stdout)
    assert counts is not None, process.stdout
    assert int(counts[2]) > 0


def test_bad_arguments_are_named():
    assert "unknown argument '--step'" in run("--step").stderr
    assert "--steps must be a positive whole number, got many" in run("--steps", "many").stderr


def test_the_page_has_the_scripts_commands():
    """What docs/multi-node.md tells to type is what the script does."""
    page, script = (REPOSITORY / "docs/multi-node.md").read_text(), SCRIPT.read_text()
    for command in (
        "app.main:app --app-dir code-judge --host 0.0.0.0 --port 8088",
        'redis-server - --bind 0.0.0.0 --port 6379 --save ""',
        "code-judge/run_workers.py",
        "--head --port 6380 --dashboard-host 0.0.0.0",
        "job submit --address http://head:8265 --working-dir . ",
        '"excludes": ["outputs", "dataset", ".venv", ".git"]',
        "--address head:6380",
        "RAY_ADDRESS=head:6380",
        "CODE_JUDGE_URL=http://head:8088",
        "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=",
    ):
        assert command in page, command
        assert command in script, command
