"""One program with many tests: each in a process of its own, with the verdict that it would have alone."""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from judge_harness import Judge, judge

from code_judge.client import JudgeClient
from code_judge.programs import WORTH_COMPILING, prepared, run_tests
from code_judge.sandbox.pool import Program, Sandbox
from code_judge.settings import load_settings
from code_judge.wire import Case, Reason, RunResult, Submission

DOUBLE = "print(int(input()) * 2)"
OUTSIDE = {"cost", "sub_id", "tests"}
"""Of a result: what differs from run to run, and what only the whole has."""


def cases_of(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"input": given, "expected_output": expected} for given, expected in pairs]


def together(served: Judge, solution: str, cases: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return served.post("/run", **{"type": "python", "solution": solution, "tests": cases, **more})


def test_all_pass_or_some_fail(served: Judge) -> None:
    result = together(served, DOUBLE, cases_of(("1", "2"), ("2", "5"), ("x", "6"), ("4", "8")), sub_id="mine")
    assert (result["sub_id"], result["success"], result["run_success"], result["reason"]) == ("mine", False, False, "")
    assert [(t["success"], t["run_success"], t["kind"]) for t in result["tests"]] == [
        (True, True, "ok"),
        (False, True, "ok"),
        (False, False, "ValueError"),
        (True, True, "ok"),
    ]
    assert (result["stdout"], result["cost"]) == ("4\n", pytest.approx(sum(t["cost"] for t in result["tests"])))
    result = together(served, DOUBLE, cases_of(("1", "2"), ("2", ["5", "4"]), ("3", None)))
    assert (result["success"], result["run_success"], result["stdout"]) == (True, True, "6\n")


# What programs do that might carry over from one test to the next, or be judged otherwise than alone.
PROGRAMS = {
    "plain": DOUBLE,
    "fails": "x = int(input())\nprint(2 * x)\nif x % 2: raise KeyError(x)",
    "exits": "x = int(input())\nprint(2 * x)\nraise SystemExit(x % 3)",
    "kills itself": "import os\nx = int(input())\nprint(2 * x, flush=True)\nif x == 2: os.kill(os.getpid(), 9)",
    "loops": "x = int(input())\nwhile x == 3: pass\nprint(2 * x)",
    "eats": "x = int(input())\nb = bytearray(1 << (30 if x == 1 else 3))\nprint(2 * x)",
    "floods": "x = int(input())\nwhile x == 1: print('x' * 1000)\nprint(2 * x)",
    "no program": "print(",
    "forges": "import os\nx = int(input())\nprint(2 * x, flush=True)\nfor fd in range(3, 64):\n"
    "    try: os.write(fd, b'started')\n    except OSError: pass\nos._exit(1 if x == 2 else 0)",
    "a file": "import os\nx = int(input())\nprint('seen' if os.path.exists('seen') else 2 * x)\n"
    "open('seen', 'w').close()",
    "its source": "x = int(input())\nprint(2 * x)\ntry: open(__file__, 'w').write('print(8)')\nexcept OSError: pass",
    "its source grows": "x, mark = int(input()), '#' + 'left'\nsource = open(__file__, 'r+')\n"
    "print('seen' if mark in source.read() else 2 * x)\nsource.write(9 * mark)\nsource.close()",
    "a daemon": "import os, time\nx = int(input())\nif os.fork() == 0:\n    os.setsid()\n"
    "    while True:\n        print('late', flush=True)\n        time.sleep(0.01)\n"
    "os.write(1, b'%d\\n' % (2 * x))\nos._exit(0)",
    "a set": "x = int(input())\nprint(*[y for y in {8, 0, 16, x}], 'and', *[y for y in {24, 8, 0}])\nprint(2 * x)",
    "a warning": "x = int(input())\nif x is 1: pass\nprint(2 * x)",
    "a global": "import builtins\nx = int(input())\nprint(getattr(builtins, 'seen', 2 * x))\nbuiltins.seen = 'seen'",
}


@pytest.mark.parametrize("compiled_once", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_test_has_the_verdict_that_it_would_have_alone(served: Judge, name: str, compiled_once: bool) -> None:
    cases = cases_of(*((str(x), str(2 * x)) for x in range(1, 5)))
    solution = PROGRAMS[name] + "\n#" * (WORTH_COMPILING // 8 if compiled_once else 1)
    assert (len(solution) * len(cases) >= WORTH_COMPILING) is compiled_once
    alone = [served.post("/run", type="python", solution=solution, **case) for case in cases]
    result = together(served, solution, cases)
    without = [{key: value for key, value in one.items() if key not in OUTSIDE} for one in alone]
    if name == "a daemon":
        # How often it prints before it is killed is chance.
        for one in (*without, *result["tests"]):
            one["stdout"] = ""
            one["success"] = one["run_success"]
    assert [{key: value for key, value in one.items() if key not in OUTSIDE} for one in result["tests"]] == without
    assert "seen" not in "".join(one["stdout"] for one in (*alone, *result["tests"]))
    if name != "a daemon":
        assert result["success"] == all(one["success"] for one in alone)


@pytest.mark.parametrize(
    ("source", "once"),
    [
        ("def f(x): return [x + k for k in range(3)]\nprint(f(int(input())), 'ü', 1e300, {1, 2, 3})", True),
        ("print({8, 0, 16})", False),
        ("def f():\n    for x in {8, 0}: print(x)", False),
        ("x = 1\nprint(x is 1)", False),
        ("print(", False),
        ("x = " + "(" * 90 + "1" + ",)" * 90, True),
        ("x = " + "-" * 100_000 + "1", False),
    ],
)
@pytest.mark.asyncio
async def test_python_is_compiled_once_where_the_runs_cannot_notice(source: str, once: bool) -> None:
    submission = Submission(type="python", solution=source + "\n#" * WORTH_COMPILING, tests=[Case(), Case()])
    sandbox = Sandbox()
    try:
        async with prepared(sandbox, submission, load_settings()) as program:
            assert isinstance(program, Program)
            assert (program.code is not None) is once
            if program.code is not None:
                assert_sealed(program.code)
        one = submission.model_copy(update={"tests": None, "solution": "print(1)"})
        async with prepared(sandbox, one, load_settings()) as program:
            assert isinstance(program, Program)
            assert program.code is None
    finally:
        await sandbox.close()


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.asyncio
async def test_a_test_cannot_change_the_binary_of_the_others() -> None:
    sandbox = Sandbox()
    try:
        async with prepared(sandbox, Submission(type="cpp", solution="int main() {}"), load_settings()) as program:
            assert isinstance(program, Program)
            assert program.binary is not None
            assert_sealed(program.binary)
    finally:
        await sandbox.close()


def assert_sealed(fd: int) -> None:
    """Not even by who may open it anew."""
    writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        for change in (lambda: os.pwrite(writable, b"x", 0), lambda: os.truncate(writable, 0)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(writable)


def test_a_run_does_not_hold_the_code_of_the_others(served: Judge) -> None:
    """It could read what the compiler left there, and hold what it cannot change."""
    look = (
        "import os\nfound = []\nfor name in os.listdir('/proc/self/fd'):\n"
        "    try: found.append((name, os.readlink('/proc/self/fd/' + name).partition(':')[0]))\n"
        "    except OSError: pass\n"
        "print(sorted((fd, kind) for fd, kind in found if not kind.startswith('/proc')))"
    ) + "\n#" * WORTH_COMPILING
    alone = served.run(look)
    assert together(served, look, cases_of(("", alone["stdout"]), ("", alone["stdout"])))["success"], alone


def test_a_test_does_not_see_another_ones_input_or_output(served: Judge) -> None:
    """Also where tests run at the same time: files, descriptors and processes of all tests are looked through."""
    look = (
        "import os, time\nsecret = input()\nopen('mine', 'w').write(secret)\nprint(secret[:0], flush=True)\n"
        "time.sleep(0.2)\nfound = []\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    for name in ('cwd/mine', 'fd/0', 'fd/1', 'mem', 'environ'):\n"
        "        if int(pid) != os.getpid():\n"
        "            try: found.append(open(f'/proc/{pid}/{name}', 'rb').read(100))\n"
        "            except OSError: pass\n"
        "for folder, _, files in os.walk('/box'):\n"
        "    found += [folder for name in files if name == 'mine']\n"
        "print([text for text in found if b'secret' in text])"
    )
    result = together(served, look, cases_of(*((f"secret {i}", "[]") for i in range(4))))
    assert [t["stdout"] for t in result["tests"]] == ["\n[]\n"] * 4


def test_early_stop_returns_the_first_failure_and_nothing_after_it(served: Judge) -> None:
    slow = "import time\nx = int(input())\ntime.sleep((6 - x) / 20)\nprint(x if x not in (2, 4) else -1)"
    cases = cases_of(*((str(x), str(x)) for x in range(6)))
    for _ in range(3):
        result = together(served, slow, cases, options={"early_stop": True})
        assert [t["success"] for t in result["tests"]] == [True, True, False]
        assert (result["success"], result["run_success"], result["stdout"]) == (False, True, "-1\n")
    assert len(together(served, slow, cases)["tests"]) == 6


def test_judge_and_batches_take_tests_beside_programs_without(served: Judge) -> None:
    many = {"type": "python", "solution": DOUBLE, "tests": cases_of(("1", "2"), ("2", "2"))}
    one = {"type": "python", "solution": "print(1)"}
    for path in ("/judge/batch", "/judge/long-batch", "/run/long-batch"):
        reply = served.http.post(path, json={"submissions": [many, one]}, headers={"X-Code-Judge-Extra": "0"}).json()
        first, second = reply["results"]
        public = {"success", "run_success", "cost", "reason"} | ({"stdout", "stderr"} if "run" in path else set())
        assert [set(result) for result in first["tests"]] == [public] * 2
        assert set(first) == public | {"sub_id", "tests"}
        assert set(second) == public | {"sub_id"}
        assert [result["success"] for result in first["tests"]] == [True, False]
    assert [set(t) for t in served.post("/judge", **many)["tests"]] == [
        {"success", "run_success", "cost", "reason", "kind", "line", "exit_code"}
    ] * 2


@pytest.mark.parametrize("wrong", [{"tests": []}, {"input": "1"}, {"expected_output": ""}, {"tests": [{"input": 3}]}])
def test_what_does_not_fit_is_422(served: Judge, wrong: dict[str, Any]) -> None:
    body = {"type": "python", "solution": DOUBLE, "tests": cases_of(("1", "2")), **wrong}
    assert served.http.post("/judge", json=body).status_code == 422


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_cpp_is_compiled_once(served: Judge) -> None:
    """The compiler says in which second it ran. Eight compilations would take several."""
    solution = (
        "#include <iostream>\nint main() { int x; std::cin >> x; std::cout << 2 * x << '\\n';\n"
        "std::cerr << __TIME__; return x == 3; }"
    )
    cases = cases_of(*((str(x), f"{2 * x}") for x in range(8)))
    result = together(served, solution, cases, type="cpp")
    assert [t["success"] for t in result["tests"]] == [x != 3 for x in range(8)]
    assert len({t["stderr"] for t in result["tests"]}) == 1
    compilation = together(served, "int main() { return x; }", cases, type="cpp")
    assert (compilation["kind"], compilation.get("tests"), compilation["success"]) == ("compile_error", None, False)


def test_tests_run_at_the_same_time_within_the_slots_and_hold_up_no_single_program() -> None:
    many = {"type": "python", "solution": "import time\ntime.sleep(0.2)", "tests": cases_of(*(("", None),) * 6)}
    with judge(MAX_WORKERS=4) as it:
        busy: list[int] = []
        answers: list[Any] = []
        ask = threading.Thread(
            target=lambda: answers.append(it.post("/run/long-batch", submissions=[many] * 6)["results"])
        )
        ask.start()
        while ask.is_alive():
            busy.append(it.http.get("/status").json()["busy"])
            assert it.run("print(1)")["stdout"] == "1\n"
        ask.join()
        assert [[t["kind"] for t in result["tests"]] for result in answers[0]] == [["ok"] * 6] * 6
        assert 2 <= max(busy) <= 4


def results(outcomes: str) -> Callable[[int], Any]:
    """By letter: passes, fails, has no verdict, runs for ever. The later a test, the sooner it ends."""

    async def run(number: int) -> RunResult:
        await asyncio.sleep((10 - number) / 1000)
        letter = outcomes[number]
        if letter == "~":
            await asyncio.Event().wait()
        reason = Reason.INTERNAL_ERROR if letter == "?" else Reason.NONE
        return RunResult(
            sub_id=None, success=letter == "+", run_success=letter != "?", cost=1, reason=reason, stdout=str(number)
        )

    return run


@pytest.mark.parametrize(
    ("outcomes", "early_stop", "length"),
    [
        ("++++", True, 4),
        ("+-+-", True, 2),
        ("+-+-", False, 4),
        ("-?++", True, 1),
        ("+?-+", False, 2),
        ("?", True, 1),
        ("-~~~", True, 1),
    ],
)
@pytest.mark.parametrize("room", [0, 1, 9])
async def test_which_results_are_returned_does_not_depend_on_the_room(
    outcomes: str, early_stop: bool, length: int, room: int
) -> None:
    running = most = 0
    run = results(outcomes)

    def start(number: int) -> "asyncio.Task[RunResult] | None":
        nonlocal running, most
        if running >= max(1, room):
            return None
        running += 1
        most = max(most, running)
        task = asyncio.create_task(run(number))
        task.add_done_callback(ended)
        return task

    def ended(_: object) -> None:
        nonlocal running
        running -= 1

    async with asyncio.timeout(60):
        found = await run_tests(len(outcomes), start, early_stop=early_stop)
    assert [result.stdout for result in found] == [str(number) for number in range(length)]
    await asyncio.sleep(0)
    assert running == 0
    assert most == min(max(1, room), len(outcomes))


@pytest.mark.parametrize("turns", [(0, 2), (2, 0), (3, 1), (4, 2)], ids=str)
async def test_tests_that_end_in_the_same_moment(turns: tuple[int, int]) -> None:
    """One ends while the end of the other is noticed. The other's place is somebody else's by then, and its own is left
    a moment later, so that for the next test there is none at first. turns: of the event loop that each takes."""
    used, others, refused = False, 1, 0

    async def run(number: int) -> RunResult:
        for _ in range(turns[number] if number < 2 else 1):
            await asyncio.sleep(0)
        return RunResult(sub_id=None, success=True, run_success=True, cost=0, reason=Reason.NONE, stdout=str(number))

    def start(number: int) -> "asyncio.Task[RunResult] | None":
        nonlocal used, others, refused
        if not used:
            used = True
            task = asyncio.create_task(run(number))
            task.add_done_callback(leave)
            return task
        if others:
            others -= 1
            return asyncio.create_task(run(number))
        refused += 1
        return None

    def leave(_: object) -> None:
        nonlocal used
        used = False

    found = await run_tests(6, start, early_stop=False)
    assert [result.stdout for result in found] == [str(number) for number in range(6)]
    assert refused


async def test_a_judge_without_tests_is_told_from_one_with() -> None:
    """An older one ignores the key, runs the program without input, and would fail every program."""

    class Old(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            result = {"sub_id": body["submissions"][0]["sub_id"], "success": False, "run_success": False}
            content = json.dumps({"results": [{**result, "cost": 0.1, "reason": "", "stdout": ""}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = JudgeClient(f"http://127.0.0.1:{server.server_port}", deadline=5)
    submission = Submission(type="python", solution=DOUBLE, tests=[Case(input="1", expected_output="2")])
    try:
        with pytest.raises(ValueError, match="ignores `tests`"):
            await client.run(submission)
    finally:
        await client.close()
        server.shutdown()
        server.server_close()


async def test_the_client_returns_the_tests(served: Judge) -> None:
    client = JudgeClient(served.url, deadline=30)
    cases = [Case(input=str(x), expected_output=[str(2 * x), "never"]) for x in range(5)]
    result = await client.run(Submission(type="python", solution=DOUBLE, tests=cases, sub_id="mine"))
    assert (result.sub_id, result.success, len(result.tests or ())) == ("mine", True, 5)
    await client.close()
