"""Integers of any length in data: Python reads and writes no more than 4,300 digits unless told otherwise.

Tests of programs hold longer ones. The limit is the process's own, so it is lifted for all of it. That is safe here:
what a model writes is at most a few ten thousand digits, which Python converts within milliseconds.
"""

import sys


def allow() -> None:
    """Idempotent. Called where data is read."""
    sys.set_int_max_str_digits(0)
