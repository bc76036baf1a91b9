"""One program with many tests against as many submissions of one test each: `code-judge bench --tests 32`.

Rounds are interleaved, and a ratio is that of two runs beside each other. All of a round's programs are on their way at
the same time, as the rewards of a training step are.
"""

import argparse
import asyncio
import itertools
import shutil
import statistics
import time
from collections.abc import Iterator
from typing import Any

from code_judge.bench.http import Connection
from code_judge.tasks import run_loop

AT_ONCE = 8
_FUNCTIONS = [f"def f{i}(a, b=({i}, 'x')):\n    return [a + k for k in range({i}) if k % 3] or b" for i in range(60)]


def _of(functions: list[str]) -> str:
    return "# {0}\n" + "\n".join(functions) + "\nprint(int(input()) * 2)"


PROGRAMS = {
    # Of one line, of about 1,000 and 5,000 characters, and in C++.
    "short": ("python", "print(int(input()) * 2 + {0} * 0)"),
    "medium": ("python", _of(_FUNCTIONS[:15])),
    "long": ("python", _of(_FUNCTIONS)),
    "cpp": ("cpp", "#include <iostream>\nint main() {{ long a; std::cin >> a; std::cout << 2 * a + {0} * 0; }}"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tests", type=int, help="instead: one program with so many tests against as many submissions")


def main(options: argparse.Namespace) -> None:
    run_loop(_measure(options))


async def _measure(options: argparse.Namespace) -> None:
    numbers = itertools.count(int(time.time()) % 100_000)
    for name, (kind, source) in PROGRAMS.items():
        if kind == "cpp" and shutil.which("g++") is None:
            continue
        # Compiling as often as there are tests takes its time.
        programs = 1 if kind == "cpp" else AT_ONCE
        rates: dict[bool, list[float]] = {True: [], False: []}
        for place in range(2 * options.rounds):
            # Each comes first as often as second.
            together = place % 4 in (0, 3)
            rates[together].append(await _round(options, kind, source, numbers, programs, together=together))
        ratios = [one / other for one, other in zip(rates[True], rates[False], strict=True)]
        print(
            f"{name:6} {statistics.median(rates[True]):8.1f} tests/s together {statistics.median(rates[False]):8.1f} "
            f"alone  x{statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


async def _round(
    options: argparse.Namespace, kind: str, source: str, numbers: Iterator[int], programs: int, *, together: bool
) -> float:
    """Right verdicts a second."""
    tests = [{"input": str(i), "expected_output": str(2 * i)} for i in range(options.tests)]

    async def one(number: int) -> int:
        connection = Connection(options.url)
        program: dict[str, Any] = {"type": kind, "solution": source.format(number)}
        submissions = [program | {"tests": tests}] if together else [program | test for test in tests]
        reply = await connection.post("/judge/long-batch", {"type": "batch", "submissions": submissions})
        connection.close()
        results = reply["results"][0]["tests"] if together else reply["results"]
        return sum(result["success"] for result in results)

    start = time.monotonic()
    right = sum(await asyncio.gather(*(one(next(numbers)) for _ in range(programs))))
    if right != programs * options.tests:
        raise ValueError(f"{programs * options.tests - right} of {programs * options.tests} verdicts are wrong")
    return right / (time.monotonic() - start)
