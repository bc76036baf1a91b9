"""The benchmark and the soak, short; their loads are right."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from judge_harness import Judge, command, environment
from redis_harness import needs_redis, redis_server
from session_harness import open_session
from test_gate import IMPOSSIBLE

from code_judge.bench.loads import LOADS

pytestmark = pytest.mark.waits


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_the_loads_expect_what_python_prints(load) -> None:  # type: ignore[no-untyped-def]
    if load.name in ("numpy", "sympy"):
        pytest.importorskip(load.name)
    programs = [load.make(n) for n in range(40)]
    assert len({source for source, _ in programs if source != "while True: pass"}) >= 30
    for source, expected in programs[:3]:
        if expected is not None:
            done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
            assert done.stdout.strip() == expected


def test_one_loop_in_twenty() -> None:
    loops = sum(LOADS[3].make(n)[1] is None for n in range(2000))
    assert 60 < loops < 140


def test_bench(served: Judge, tmp_path: Path) -> None:
    output, figure = tmp_path / "bench.json", tmp_path / "bench.png"
    options = ["--url", served.url, "--seconds", "0.5", "--rounds", "1", "--loads", "hello", "--slots"]
    arguments = command("bench", *options, "--output", str(output), "--figure", str(figure))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    table = json.loads(output.read_text())["hello"]
    assert set(table) == {"single", "long-batch", "subprocess", "slots alone"}
    assert all(row["rate"] > 0 and not row["problems"] for row in table.values())
    assert figure.stat().st_size > 1000
    assert len(done.stdout.splitlines()) == 4


def test_a_short_soak() -> None:
    arguments = command("soak", "--seconds", "6", "--every", "2", "--kill-every", "1.5")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no process, zombie or folder left" in done.stdout
    # On a busy machine there is no time for the third, or nothing to kill that has not been killed.
    assert re.search(r" [1-3] kills", done.stdout)


@needs_redis
def test_a_short_soak_with_every_mishap() -> None:
    mishaps = ["--kill-every", "3", "--restart-api-every", "4", "--failover-every", "5"]
    arguments = command("soak", "--seconds", "14", "--every", "2", *mishaps)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no process, zombie or folder left" in done.stdout
    assert re.search(r"\n\d{2,} answers  0 wrong  [1-9]\d* kills, [1-9]\d* restarts, [1-9]\d* failovers", done.stdout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--restart-api-every", "5"], "needs --redis-uri"),
        (["--failover-every", "5", "--redis-uri", "redis://h"], "leave --redis-uri out"),
    ],
)
def test_mishaps_that_need_another_redis(options: list[str], message: str) -> None:
    done = subprocess.run(command("soak", *options), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr


def test_a_soak_of_a_service_that_does_not_start() -> None:
    done = subprocess.run(
        command("soak"), env=environment(**IMPOSSIBLE), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "code-judge: error: the service did not start" in done.stderr


def test_the_costs_of_sessions(served: Judge) -> None:
    open_session(served).delete()
    arguments = [sys.executable, "-m", "code_judge.bench.sessions", "--cells", "16", "--sessions", "3"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    cells, idle = done.stdout.splitlines()
    assert re.fullmatch(r"bare   cells: \d+/s, -?\d+\.\d\d ms of CPU each", cells)
    each = re.fullmatch(r"bare   idle:  3 sessions \d+ MB in all, (\d+) kB each \(PSS\)", idle)
    assert each is not None, idle
    assert 100 < int(each[1]) < 5000


@needs_redis
def test_sessions_over_redis_are_compared_with_those_of_one_process(served: Judge, tmp_path: Path) -> None:
    open_session(served).delete()
    with redis_server(tmp_path) as redis:
        options = ["--redis-uri", redis.uri, "--cells", "16", "--rounds", "1"]
        started = [sys.executable, "-m", "code_judge.bench.sessions", *options]
        done = subprocess.run(started, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    *each, ratio = done.stdout.splitlines()
    assert [line[:15].strip() for line in each] == ["in one process", "over Redis"]
    assert re.fullmatch(r"ratio +\d+\.\d\d of the rate, \d+\.\d\d of the latency, -?\d+\.\d\d of the CPU", ratio)


def test_bench_of_many_tests(served: Judge) -> None:
    done = subprocess.run(
        command("bench", "--url", served.url, "--tests", "4", "--rounds", "1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} >= {"short", "long"}
    assert all(float(row[1]) > 0 and row[-4].startswith("x") for row in rows)
