"""Limits on time and output, enforced from outside of the program."""

import time

import pytest
from judge_harness import Judge, on_this_machine

MARK = "Suicide from timeout."


@pytest.mark.alone
@pytest.mark.parametrize(
    "solution",
    [
        "print('before', flush=True)\nwhile True: pass",
        "import time\nprint('before', flush=True)\ntime.sleep(60)",
        # As many as can be: every signal that can be ignored is, and the clock of the limit is switched off.
        "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nsignal.alarm(0)\nprint('before', flush=True)\n"
        "try:\n    while True: pass\nexcept BaseException: time.sleep(60)\ntime.sleep(60)",
        "import threading, time\nprint('before', flush=True)\nthreading.Thread(target=time.sleep, args=(60,)).start()",
    ],
    ids=["busy", "asleep", "deaf", "thread"],
)
def test_wall_time(served: Judge, solution: str) -> None:
    start = time.monotonic()
    result = served.run(solution)
    assert time.monotonic() - start < on_this_machine(5)
    assert (result["reason"], result["run_success"], result["success"]) == ("worker_timeout", False, False)
    assert result["stdout"] == "before\n" + MARK
    assert 2 <= result["cost"] < on_this_machine(3.5)
    assert result["kind"] == "timeout"


def test_cpu_time_counts_every_thread_and_child(served: Judge) -> None:
    """Children that were waited for used the CPU before the wall clock reached the limit."""
    solution = (
        "import os, time\nfor _ in range(40):\n    children = []\n    for _ in range(4):\n        pid = os.fork()\n"
        "        if pid == 0:\n            end = time.process_time() + 0.05\n"
        "            while time.process_time() < end: pass\n            os._exit(0)\n        children.append(pid)\n"
        "    for pid in children: os.waitpid(pid, 0)\ntime.sleep(60)"
    )
    result = served.run(solution)
    assert result["reason"] == "worker_timeout"


def test_a_timeout_does_not_count_as_success_even_if_the_output_is_right(served: Judge) -> None:
    result = served.post(
        "/judge", type="python", solution="print('x', flush=True)\nwhile True: pass", expected_output="x"
    )
    assert (result["success"], result["reason"]) == (False, "worker_timeout")


@pytest.mark.alone
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_over_the_limit_ends_the_program(served: Judge, stream: str) -> None:
    solution = f"import sys\nwhile True: sys.{stream}.write('x' * 65536)"
    start = time.monotonic()
    result = served.run(solution)
    assert time.monotonic() - start < 2
    assert (result["run_success"], result["reason"], result["kind"]) == (False, "", "output_limit")
    assert len(result[stream]) <= 1200


def test_output_is_cut_after_it_is_compared(served: Judge) -> None:
    text = "".join(f"{i}\n" for i in range(10_000))
    result = served.run("for i in range(10_000): print(i)", expected_output=text)
    assert result["success"] is True
    assert len(result["stdout"]) < 1200
    result = served.run("for i in range(10_000): print(i)", expected_output=text[:-2])
    assert result["success"] is False


def test_an_expected_output_above_the_limit_can_pass(served: Judge) -> None:
    text = "x" * (3 << 20)
    assert served.run("print('x' * (3 << 20))", expected_output=text)["success"] is True
    assert served.run("print('x' * (5 << 20))", expected_output=text)["kind"] == "output_limit"
