"""How a quickstart ends that does not finish: killed, or asked for what is wrong."""

import io
import os
import signal

import pytest
from quickstart_runs import MULTI_TURN, Quickstart

from cleaner_lab.nano import quickstart
from cleaner_lab.nano.quickstart import main
from verl_cleaner.engine.cpu import forkserver

pytestmark = pytest.mark.end_to_end(3)


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("cleaner_lab.nano.quickstart", signal.SIGINT),
        ("cleaner_lab.nano.quickstart", signal.SIGKILL),
        ("verl_cleaner.main_ppo", signal.SIGKILL),
    ],
)
def test_a_killed_run_leaves_nothing_behind(tmp_path, module, number):
    quickstart = Quickstart(tmp_path)
    # All processes are there then.
    quickstart.until("measuring the policy")
    processes = quickstart.processes()
    assert any("raylet/raylet" in command and str(forkserver.SETUP) in command for command in processes.values())
    # The fork server is a fork of the training's process, and so has its command.
    assert not any("-m verl_cleaner.engine.cpu.forkserver" in command for command in processes.values())
    os.kill(min(pid for pid, command in processes.items() if f"-m {module}" in command), number)
    assert quickstart.finish() != 0
    assert not quickstart.left()


def test_everything_wrong_is_named_at_once(tmp_path):
    """Before anything is started."""
    quickstart = Quickstart(
        tmp_path,
        f"+{MULTI_TURN}.rollback_similarity_threshold=1.4",
        f"+{MULTI_TURN}.rollback_probability=2",
        f"+{MULTI_TURN}.max_tool_retrys=2",
        "data.train_files=/nowhere/train.parquet",
    )
    assert quickstart.finish() != 0
    for message in (
        "training ended with exit status 1: ",
        "rollback_similarity_threshold must be in [0, 1], got 1.4",
        f"{MULTI_TURN}.rollback_probability must be in [0, 1], got 2",
        "max_tool_retrys",
        "data.train_files=/nowhere/train.parquet: the file does not exist",
    ):
        assert message in quickstart.text
    assert "Traceback" not in quickstart.text + quickstart.log()
    assert "ray init" not in quickstart.log()
    assert not quickstart.left()


def test_a_wrong_argument_is_named(tmp_path):
    quickstart = Quickstart(tmp_path, "--step", "3")
    assert quickstart.finish() != 0
    assert "unknown argument '--step'" in quickstart.text
    assert "Traceback" not in quickstart.text


def test_an_interrupted_quickstart_says_so(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["quickstart.sh"])
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(quickstart, "train", interrupted)
    with pytest.raises(SystemExit, match=r"\[cleaner\] stopped"):
        main()


def test_steps_are_at_least_one(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["quickstart.sh", "--steps", "0"])
    with pytest.raises(SystemExit):
        main()
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err
