"""A training as a child process: what it leaves is ended, and this process is as it was."""

import ctypes
import os
import sys
from pathlib import Path

import psutil

from verl_cleaner.launch import Training

ORPHAN = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
"""


def subreaper() -> bool:
    found = ctypes.c_int(7)
    ctypes.CDLL(None).prctl(37, ctypes.byref(found))
    return bool(found.value)


def test_what_a_training_leaves_is_ended_and_others_orphans_are_not_taken_in(tmp_path: Path) -> None:
    assert not subreaper()
    log = tmp_path / "train.log"
    with Training([sys.executable, "-c", ORPHAN], log=log, environment={}) as first:
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
        with Training([sys.executable, "-c", "pass"], log=tmp_path / "second.log", environment={}):
            assert subreaper()
        assert subreaper()
        orphan = int(log.read_text())
        assert psutil.Process(orphan).ppid() == os.getpid()
    assert not psutil.pid_exists(orphan)
    assert not subreaper()
