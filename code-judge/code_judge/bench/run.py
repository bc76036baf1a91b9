"""Measure a judge: each load as single calls and as long batches, beside the floor, `subprocess` with the same script.

Runs are interleaved, judge and floor in turns, so that both meet the same machine; medians are compared. With --slots
the sandbox's own limit is measured too, without HTTP and queue. The client needs CPU beside the judge.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from code_judge.admission import YOUNG_PER_CORE
from code_judge.bench import many
from code_judge.bench.http import Connection
from code_judge.bench.loads import LOADS, Load
from code_judge.sandbox.pool import Program, Sandbox
from code_judge.settings import Settings, cores, load_settings
from code_judge.tasks import run_loop

CONCURRENCY = 64
BATCH = 16
FLOOR_AT_A_TIME = 2


@dataclass(slots=True)
class Sample:
    """One run. rate: right answers a second. latencies: seconds of a call; of single ones, those of programs that end
    by themselves."""

    rate: float
    latencies: list[float]
    problems: "Counter[str]" = field(default_factory=Counter)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8088", help="of the judge, or of any with this contract")
    parser.add_argument("--seconds", type=float, default=5, help="of each run (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY)
    parser.add_argument(
        "--loads", nargs="+", choices=[load.name for load in LOADS], default=[load.name for load in LOADS]
    )
    many.add_arguments(parser)
    parser.add_argument("--slots", action="store_true", help="measure the sandbox alone, too, in this process")
    parser.add_argument("--output", type=Path, help="write the samples here as JSON")
    parser.add_argument("--figure", type=Path, help="draw the table here (PNG or SVG; needs matplotlib)")


def main(options: argparse.Namespace) -> None:
    if options.tests:
        many.main(options)
        return
    table = {}
    for load in (load for load in LOADS if load.name in options.loads):
        samples = run_loop(_measure(load, options))
        table[load.name] = {kind: _summary(runs) for kind, runs in samples.items()}
        _print_rows(load.name, table[load.name])
    if options.output is not None:
        options.output.write_text(json.dumps(table, indent=1) + "\n")
    if options.figure is not None:
        draw(table, options.figure)


async def _measure(load: Load, options: argparse.Namespace) -> dict[str, list[Sample]]:
    numbers = itertools.count(int(time.time()) % 100_000)
    kinds: dict[str, Callable[[], Awaitable[Sample]]] = {
        "single": lambda: _drive(options, load, numbers, batch=1),
        "long-batch": lambda: _drive(options, load, numbers, batch=BATCH),
        "subprocess": lambda: asyncio.to_thread(_floor, load, numbers, options.seconds),
    }
    if load.name == "5% loops":
        # A script without end would have to be ended by someone, and hold one of the few slots meanwhile.
        del kinds["subprocess"]
    elif options.slots:
        kinds["slots alone"] = lambda: _slots(load, numbers, options)
    samples: dict[str, list[Sample]] = {kind: [] for kind in kinds}
    await kinds["single"]()
    for _ in range(options.rounds):
        for kind, run in kinds.items():
            samples[kind].append(await run())
    return samples


async def _drive(options: argparse.Namespace, load: Load, numbers: Iterator[int], *, batch: int) -> Sample:
    """`concurrency` programs on their way at a time, alone or in batches, until the time is over."""
    sample, start, right = Sample(0, []), time.monotonic(), 0

    async def caller() -> None:
        nonlocal right
        connection = Connection(options.url)
        while time.monotonic() - start < options.seconds:
            programs = [load.make(next(numbers)) for _ in range(batch)]
            submissions = [
                {"type": "python", "solution": source, "expected_output": expected} for source, expected in programs
            ]
            begin = time.monotonic()
            if batch == 1:
                results = [await connection.post("/judge", submissions[0])]
            else:
                body = {"type": "batch", "submissions": submissions}
                results = (await connection.post("/judge/long-batch", body))["results"]
            if batch > 1 or programs[0][1] is not None:
                sample.latencies.append(time.monotonic() - begin)
            problems = [_problem(expected, result) for (_, expected), result in zip(programs, results, strict=True)]
            right += problems.count(None)
            sample.problems.update(problem for problem in problems if problem is not None)
        connection.close()

    await asyncio.gather(*(caller() for _ in range(max(1, options.concurrency // batch))))
    sample.rate = right / (time.monotonic() - start)
    return sample


def _problem(expected: str | None, result: dict[str, Any]) -> str | None:
    """None where the answer is right."""
    if expected is None:
        return None if result["reason"] == "worker_timeout" else f"a loop ended with {result['reason']!r}"
    return None if result["success"] else result["reason"] or "wrong"


def _floor(load: Load, numbers: Iterator[int], seconds: float) -> Sample:
    """`python solution.py`, two at a time."""
    sample, start = Sample(0, []), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(FLOOR_AT_A_TIME) as executor:

        def runner(place: int) -> int:
            right, file = 0, Path(folder) / f"solution{place}.py"
            while time.monotonic() - start < seconds:
                source, expected = load.make(next(numbers))
                file.write_text(source)
                begin = time.monotonic()
                done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
                sample.latencies.append(time.monotonic() - begin)
                right += done.stdout.strip() == expected
            return right

        right = sum(executor.map(runner, range(FLOOR_AT_A_TIME)))
    sample.rate = right / (time.monotonic() - start)
    return sample


async def _slots(load: Load, numbers: Iterator[int], options: argparse.Namespace) -> Sample:
    """The sandbox alone, a few programs a core at a time, as the worker runs them."""
    settings = load_settings()
    sandbox, sample, right = Sandbox(settings.code_judge_python), Sample(0, []), 0
    source, _ = load.make(next(numbers))
    await sandbox.run(program(source, settings))
    start = time.monotonic()

    async def slot() -> None:
        nonlocal right
        while time.monotonic() - start < options.seconds:
            source, expected = load.make(next(numbers))
            begin = time.monotonic()
            execution = await sandbox.run(program(source, settings))
            sample.latencies.append(time.monotonic() - begin)
            right += execution.stdout.strip() == expected
        return

    await asyncio.gather(*(slot() for _ in range(YOUNG_PER_CORE * cores())))
    sample.rate = right / (time.monotonic() - start)
    await sandbox.close()
    return sample


def program(source: str, settings: Settings) -> Program:
    seconds, memory = settings.max_execution_time, settings.max_memory << 20
    return Program(source, "", seconds, memory, settings.max_output_size)


def _summary(samples: list[Sample]) -> dict[str, Any]:
    latencies = sorted(latency for sample in samples for latency in sample.latencies)
    problems: Counter[str] = sum((sample.problems for sample in samples), Counter())
    return {
        "rate": statistics.median(sample.rate for sample in samples),
        "rates": [round(sample.rate, 2) for sample in samples],
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[int(len(latencies) * 0.99)],
        "problems": dict(problems),
    }


def _print_rows(name: str, kinds: dict[str, dict[str, Any]]) -> None:
    floor = kinds.get("subprocess", {}).get("rate")
    for kind, row in kinds.items():
        ratio = f"x{row['rate'] / floor:.1f}" if floor and kind != "subprocess" else ""
        problems = ", ".join(f"{count} {what}" for what, count in row["problems"].items())
        line = f"{name:9} {kind:12} {row['rate']:8.1f}/s {ratio:>6}  p50 {row['p50']:.3f} s  p99 {row['p99']:.3f} s"
        print(f"{line}  {problems}".rstrip(), flush=True)


def draw(table: dict[str, Any], path: Path) -> None:
    """Rates by load, on a logarithmic scale. Raises ValueError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--figure needs matplotlib; install it, or leave the option out") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(kind for rows in table.values() for kind in rows))
    figure, axes = pyplot.subplots(figsize=(8, 4))
    width = 0.8 / len(kinds)
    for place, kind in enumerate(kinds):
        spots = [index + place * width for index, rows in enumerate(table.values()) if kind in rows]
        bars = axes.bar(spots, [rows[kind]["rate"] for rows in table.values() if kind in rows], width, label=kind)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks([index + 0.4 - width / 2 for index in range(len(table))], list(table))
    axes.set_yscale("log")
    axes.set_ylabel("right answers a second")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
