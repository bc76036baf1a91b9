"""Following a training process: its metrics, its end, and what its log says went wrong."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from verl_cleaner import launch as run_module
from verl_cleaner.launch import Run, RunFailed, last_error

SCRIPT = """
import json, os, sys, time
with open(os.environ["VERL_FILE_LOGGER_PATH"], "a") as file:
    for step in range(3):
        text = json.dumps({"step": step, "data": {"x": step}})
        file.write(text[:5]); file.flush()
        file.write(text[5:] + "\\n"); file.flush()
print("ValueError: early"); print("verl.x.RolloutError: the judge is gone"); print("later noise")
sys.exit(int(sys.argv[1]))
"""


class Scripted(Run):
    """A run whose process is a script instead of the training."""

    def __init__(self, folder, code, *arguments):
        super().__init__(folder, [])
        self.command = [sys.executable, "-c", code, *arguments]


def test_steps_come_in_order_and_whole(tmp_path):
    with Scripted(tmp_path, SCRIPT, "0") as run:
        entries = [entry for entry in run.steps() if entry is not None]
    assert entries == [(0, {"x": 0}), (1, {"x": 1}), (2, {"x": 2})]


def test_an_error_names_its_cause_and_the_log(tmp_path):
    with Scripted(tmp_path, SCRIPT, "3") as run, pytest.raises(RunFailed) as error:
        list(run.steps())
    assert "exit status 3: verl.x.RolloutError: the judge is gone" in str(error.value)
    assert str(tmp_path / "train.log") in str(error.value)


def test_leaving_ends_the_process_even_if_it_ignores_signals(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_GRACE_SECONDS", 0.2)
    code = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.environ["VERL_FILE_LOGGER_PATH"], "w").write('{"step": 0, "data": {}}\\n')
time.sleep(600)
"""
    with Scripted(tmp_path, code) as run:
        assert next(entry for entry in run.steps() if entry is not None) == (0, {})
        pid = run.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_leaving_ends_what_a_killed_training_left_behind_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_ORPHANS_SECONDS", 0.2)
    code = """
import os, subprocess, sys
daemon = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", daemon], start_new_session=True, stdout=subprocess.PIPE, text=True)
pids = [child.pid, int(child.stdout.readline())]
open(os.environ["VERL_FILE_LOGGER_PATH"], "w").write('{"step": 0, "data": {"pids": %s}}\\n' % pids)
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen(["sleep", "600"]) as bystander:
        with Scripted(tmp_path, code) as run:
            steps = run.steps()
            left = [psutil.Process(pid) for pid in next(entry for entry in steps if entry is not None)[1]["pids"]]
            with pytest.raises(RunFailed):
                list(steps)
        assert bystander.poll() is None
        bystander.kill()
    assert not any(process.is_running() for process in left)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", "nothing was logged"),
        ("noise\nerror: 2 problems before the start:\n  - a\n  - b\n", "2 problems before the start:\n  - a\n  - b"),
        ("Traceback:\n  File x\nValueError: bad\nAt exit\n", "ValueError: bad"),
        ("(Worker pid=1) torch.OutOfMemoryError: no memory\n", "(Worker pid=1) torch.OutOfMemoryError: no memory"),
        (
            "pkg.GroupsError: lost\nAt exit\n\x1b[36m(Loop pid=7)\x1b[0m pkg.JudgeError: no verdict\n",
            "pkg.GroupsError: lost",
        ),
        ("a note: fine\nlast words\n", "last words"),
    ],
)
def test_last_error(tmp_path, log, expected):
    path = tmp_path / "train.log"
    path.write_text(log)
    assert last_error(path) == expected


def test_metrics_of_an_earlier_run_in_the_folder_are_not_taken_for_this_one_s(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 9, "data": {}}) + "\n")
    with Scripted(tmp_path, SCRIPT, "0") as run:
        assert [entry[0] for entry in run.steps() if entry is not None] == [0, 1, 2]


BEHIND_A_WORKER = """
import sys
from verl_cleaner.main_ppo import errors_in_a_line
from verl_cleaner.saar.outcome import InfrastructureError
with errors_in_a_line():
    sys.stderr.write("(Loop pid=7) pkg.JudgeError: no verdict")
    raise InfrastructureError("2 of 16 groups were lost")
"""


def test_an_error_is_found_behind_a_line_of_a_worker_that_has_no_end_yet(tmp_path):
    """Ray shows such a line and its end in two writes."""
    path = tmp_path / "train.log"
    with path.open("wb") as log:
        assert subprocess.run([sys.executable, "-c", BEHIND_A_WORKER], stderr=log).returncode == 1
    assert last_error(path) == "2 of 16 groups were lost"
