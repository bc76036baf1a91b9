"""A submission's own limits, below the service's."""

from typing import Any

import pytest
from judge_harness import Judge, on_this_machine

from code_judge.client import JudgeClient
from code_judge.programs import limits_of
from code_judge.sandbox.limits import Clock
from code_judge.settings import Settings
from code_judge.wire import Limits, Submission

SLEEP, LOOP = "import time\ntime.sleep(60)", "while True: pass"
SLEEP_A_SECOND = "import time\ntime.sleep(1)\nprint('slept')"
HOLD_128_MB = "import time\nx = b'x' * (1 << 27)\ntime.sleep(1)"


@pytest.mark.parametrize(
    ("limits", "solution", "kind"),
    [
        ({"seconds": 0.4}, SLEEP, "timeout"),
        ({"seconds": 0.4}, LOOP, "timeout"),
        ({"cpu": 0.3}, LOOP, "timeout"),
        ({"cpu": 0.3}, SLEEP_A_SECOND, "ok"),
        ({"memory": 64}, HOLD_128_MB, "memory"),
        ({"memory": 200}, HOLD_128_MB, "ok"),
        ({}, "print(1)", "ok"),
    ],
)
def test_a_program_ends_at_its_own_limits(served: Judge, limits: dict[str, Any], solution: str, kind: str) -> None:
    result = served.run(solution, limits=limits)
    assert result["kind"] == kind
    if kind == "timeout":
        # The service's own limit is 2 s.
        assert 0.25 < result["cost"] < on_this_machine(1.9)
    if kind == "memory":
        assert "more than 64 MB" in result["stderr"]


def test_no_limit_is_above_the_services() -> None:
    settings = Settings(max_execution_time=2, max_memory=256, max_stdout_error_length=1000, max_output_size=5000)

    def limits(**own: Any) -> tuple[float, int, int]:
        return limits_of(Submission(type="python", solution="", limits=Limits(**own)), settings)

    assert limits(seconds=100, memory=10_000, output=10**9) == (2, 256, 5000)
    assert limits(seconds=0.5, memory=64, output=7) == (0.5, 64, 7)
    assert limits() == (2, 256, 1000)


def test_more_cpu_than_the_time_allows_is_not_given() -> None:
    clock = Clock(limit=2, start=0.0, seen=0.0, most_cpu=100)
    clock.observe(2.0, cpu=2.0, busy=True)
    assert clock.is_over()
    clock = Clock(limit=2, start=0.0, seen=0.0, most_cpu=0.5)
    clock.observe(1.0, cpu=0.4, busy=True)
    assert not clock.is_over()
    clock.observe(1.2, cpu=0.5, busy=True)
    assert clock.is_over()


def test_the_length_of_the_output_is_the_submissions_choice(served: Judge) -> None:
    for length in (5, 5000):
        assert len(served.run("print('x' * 9000)", limits={"output": length})["stdout"]) == length


def test_each_of_several_tests_has_them(served: Judge) -> None:
    tests = [{"input": "1"}, {"input": "9"}]
    result = served.run("while int(input()) > 5: pass", tests=tests, limits={"cpu": 0.3})
    assert [test["kind"] for test in result["tests"]] == ["ok", "EOFError"]
    result = served.run("n = input()\nwhile n == '9': pass", tests=tests, limits={"cpu": 0.3})
    assert [test["kind"] for test in result["tests"]] == ["ok", "timeout"]


def test_a_compiler_has_the_services_limits(served: Judge) -> None:
    solution = "#include <iostream>\nint main() { std::cout << 7; }"
    reply = served.post("/run", type="cpp", solution=solution, limits={"seconds": 0.2, "cpu": 0.05, "memory": 8})
    assert (reply["kind"], reply["stdout"]) == ("ok", "7")


@pytest.mark.parametrize(
    "limits", [{"seconds": 0}, {"cpu": -1}, {"memory": 0}, {"output": -1}, {"wall": 3}, {"seconds": "long"}]
)
def test_what_is_no_limit_is_422_and_named(served: Judge, limits: dict[str, Any]) -> None:
    reply = served.http.post("/run", json={"type": "python", "solution": "", "limits": limits})
    assert reply.status_code == 422
    assert next(iter(limits)) in reply.text


async def test_the_client_sends_them(served: Judge) -> None:
    client = JudgeClient(served.url)
    try:
        submission = Submission(type="python", solution=LOOP, limits=Limits(cpu=0.3))
        assert (await client.run(submission)).kind == "timeout"
        submission = Submission(type="python", solution="print('x' * 2000)", limits=Limits(output=3))
        assert (await client.run(submission)).stdout == "xxx"
    finally:
        await client.close()
