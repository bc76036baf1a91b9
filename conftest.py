"""What all tests share."""

import ctypes
import os
import re
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PR_GET_CHILD_SUBREAPER = 37
HANDLERS = signal.valid_signals() - {signal.SIGALRM, signal.SIGCHLD, signal.SIGTERM}
"""But for those that pytest-timeout, torch's data loader and Ray set, and keep."""
LIMITS = {name for name in dir(resource) if name.startswith("RLIMIT_")} - {"RLIMIT_NOFILE", "RLIMIT_OFILE"}
"""But for that of open files, which a sandbox raises where it starts."""


@pytest.fixture(autouse=True, scope="session")
def interrupt() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and programs that tests start inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def shared_by_all_tests() -> dict[str, Any]:
    """What a process has once: a file that leaves it changed makes the order of files matter."""
    subreaper = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(subreaper))
    return {
        "working directory": os.getcwd(),
        "signal handlers": {number: signal.getsignal(number) for number in HANDLERS},
        "child subreaper": subreaper.value,
        "umask": re.search(r"Umask:\s*(\d+)", Path("/proc/self/status").read_text())[1],
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
    }


@pytest.fixture(autouse=True, scope="module")
def left_as_found(interrupt: None) -> Iterator[None]:
    before = shared_by_all_tests()
    yield
    assert shared_by_all_tests() == before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start the whole system most often come first, then those that wait, then those with the most tests:
    with several at a time, the last one is not a long one."""
    tests = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[int, bool, int]:
        runs = max((mark.args[0] for mark in item.iter_markers("end_to_end")), default=0)
        return -runs, item.get_closest_marker("waits") is None, -tests[item.path]

    items.sort(key=place)
