"""What all tests share. `tests/run.sh` runs them in three parts, by the markers `end_to_end` and `alone`."""

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def interrupt() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and programs that tests start inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start the whole system most often come first: with two at a time the last one is not a long one."""
    items.sort(key=lambda item: -max((mark.args[0] for mark in item.iter_markers("end_to_end")), default=0))
