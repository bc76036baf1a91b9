"""The programs of the benchmark, each different from the last, so that no judge can answer from memory."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """make: the n-th program and its expected output, None for one that never ends. weight: share of the time."""

    name: str
    make: Callable[[int], tuple[str, str | None]]


def _hello(n: int) -> tuple[str, str | None]:
    return f"print('hello world', {n})", f"hello world {n}"


def _numpy(n: int) -> tuple[str, str | None]:
    return f"import numpy as np\na = np.arange({n}, {n} + 10)\nprint(int(a.sum()))", str(10 * n + 45)


def _sympy(n: int) -> tuple[str, str | None]:
    a, b = n % 50 + 1, n % 37 + 51
    program = (
        "import sympy as sp\nz = sp.Symbol('z')\n"
        f"roots = sp.solve(sp.expand((z - {a}) * (z + {b}) * 3), z)\nprint(sorted(roots), sp.diff(z**{n % 7 + 2}, z))"
    )
    power = n % 7 + 2
    derivative = "2*z" if power == 2 else f"{power}*z**{power - 1}"
    return program, f"[{-b}, {a}] {derivative}"


def _loops(n: int) -> tuple[str, str | None]:
    # One in twenty, at places that follow no period.
    return ("while True: pass", None) if random.Random(n).random() < 0.05 else _hello(n)


LOADS = (Load("hello", _hello), Load("numpy", _numpy), Load("sympy", _sympy), Load("5% loops", _loops))
