"""The public code-judge's contract to the letter: what its client, its tests and its operators rely on."""

import dataclasses
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from judge_harness import EXTRA, Judge, command, environment, judge

from code_judge.api import create_app
from code_judge.public_settings import compile_command
from code_judge.settings import Settings, load_settings

needs_cpp = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
HELLO = {"type": "python", "solution": "print('hello')"}
WAYS = ("judge", "run")
BATCHES = ("batch", "long-batch")
JUDGE_KEYS = ["sub_id", "success", "run_success", "cost", "reason"]
RUN_KEYS = [*JUDGE_KEYS, "stdout", "stderr"]


@dataclasses.dataclass
class SubmissionResult:
    """The keys that the public client builds its result from; any other key is an error there."""

    sub_id: str
    success: bool
    run_success: bool
    cost: float
    stdout: str | None = None
    stderr: str | None = None
    reason: str = ""


@dataclasses.dataclass
class ServerStatus:
    queue: int
    num_workers: int


@pytest.fixture(scope="module")
def four() -> Iterator[Judge]:
    with judge(MAX_WORKERS=4, MAX_EXECUTION_TIME=1) as it:
        yield it


@pytest.fixture(scope="module")
def http(four: Judge) -> Iterator[httpx.Client]:
    """Asks for nothing extra."""
    with httpx.Client(base_url=four.url, timeout=60) as it:
        yield it


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    reply = http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_status_has_two_keys(http: httpx.Client) -> None:
    assert http.get("/status").json() == {"queue": 0, "num_workers": 4}
    assert ServerStatus(**http.get("/status").json()).num_workers == 4
    assert {"busy", "workers", "isolation"} <= set(http.get("/status?extra=1").json())


@pytest.mark.parametrize(("path", "keys"), [("/judge", JUDGE_KEYS), ("/run", RUN_KEYS)])
def test_a_reply_has_the_public_keys_and_no_others(http: httpx.Client, path: str, keys: list[str]) -> None:
    for solution in ("print('hello')", "1/0", "while True: pass"):
        result = post(http, path, type="python", solution=solution)
        assert sorted(result) == sorted(keys)
        assert SubmissionResult(**result).cost > 0
    for batch in BATCHES:
        reply = post(http, f"{path}/{batch}", type="batch", submissions=[HELLO])
        assert sorted(reply) == ["results", "sub_id"]
        assert sorted(reply["results"][0]) == sorted(keys)


@pytest.mark.parametrize(
    ("query", "headers", "extra"),
    [("?extra=1", {}, True), ("", EXTRA, True), ("?extra=0", {}, False), ("", {"X-Code-Judge-Extra": "0"}, False)],
)
def test_extra_keys_come_when_asked_for(http: httpx.Client, query: str, headers: dict[str, str], extra: bool) -> None:
    found = [
        http.post(f"/run{query}", json={"type": "python", "solution": "\n1/0"}, headers=headers).json(),
        http.post(f"/judge/batch{query}", json={"submissions": [HELLO]}, headers=headers).json()["results"][0],
    ]
    assert ["kind" in result and "line" in result for result in found] == [extra, extra]
    if extra:
        assert (found[0]["kind"], found[0]["line"]) == ("ZeroDivisionError", 2)


def test_ids_are_made_up_where_the_client_gives_none(http: httpx.Client) -> None:
    bare = [{**HELLO}, {**HELLO, "sub_id": None}, {**HELLO, "sub_id": ""}]
    ids = [post(http, "/judge", **submission)["sub_id"] for submission in bare]
    reply = post(http, "/run/long-batch", submissions=[*bare, {**HELLO, "sub_id": "mine"}])
    ids += [reply["sub_id"], *(result["sub_id"] for result in reply["results"])]
    assert ids.pop() == "mine"
    assert len({uuid.UUID(made_up) for made_up in ids}) == 7


def test_options_may_be_null_and_hold_what_nobody_knows(http: httpx.Client) -> None:
    for options in (None, {}, {"of": "another", "release": "x"}):
        assert post(http, "/judge", **HELLO, options=options, expected_output="hello")["success"]


@pytest.mark.parametrize("path", ["/judge/", "/run/", "/judge/batch/", "/ping/"])
def test_a_slash_at_the_end_changes_nothing(http: httpx.Client, path: str) -> None:
    if path == "/ping/":
        assert http.get(path).json() == "pong"
    else:
        body = {"submissions": [HELLO]} if "batch" in path else HELLO
        assert http.post(path, json=body).status_code == 200


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("submission", "success", "run_success"),
    [
        ({"solution": "print(input())", "input": "a", "expected_output": "a"}, True, True),
        ({"solution": "print(input())", "input": "a", "expected_output": "b"}, False, True),
        ({"solution": "print(input())", "input": "", "expected_output": "a"}, False, False),
        ({"solution": "open('test.txt', 'w').write('x')", "input": "", "expected_output": ""}, True, True),
    ],
    ids=["right", "wrong", "no input", "writes a file"],
)
def test_verdicts_alone_and_in_batches(
    http: httpx.Client, way: str, submission: dict[str, str], success: bool, run_success: bool
) -> None:
    body = {"type": "python", **submission}
    results = [post(http, f"/{way}", **body)]
    for batch in BATCHES:
        results += post(http, f"/{way}/{batch}", type="batch", submissions=[body, HELLO])["results"][:1]
    assert [(result["success"], result["run_success"]) for result in results] == [(success, run_success)] * 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "submission",
    [
        {"type": "python", "solution": "from time import sleep\nsleep(10)"},
        pytest.param(
            {"type": "cpp", "solution": "#include <unistd.h>\nint main() { sleep(10); }"}, marks=needs_cpp, id="cpp"
        ),
    ],
)
def test_a_timeout_has_the_reason_and_the_mark(http: httpx.Client, way: str, submission: dict[str, str]) -> None:
    result = post(http, f"/{way}", **submission, expected_output="a")
    assert (result["success"], result["run_success"], result["reason"]) == (False, False, "worker_timeout")
    if way == "run":
        assert result["stdout"].strip() == "Suicide from timeout."


def test_a_child_that_is_left_behind_fails_the_program(http: httpx.Client) -> None:
    """A program waits for its `multiprocessing` children, as under python; here for longer than it may."""
    solution = (
        "from multiprocessing import Process\nfrom time import sleep\n"
        "def work(): sleep(100)\nProcess(target=work).start()\nprint('a')"
    )
    result = post(http, "/judge", type="python", solution=solution, expected_output="a")
    assert (result["success"], result["run_success"]) == (False, False)


def test_their_compile_command() -> None:
    for theirs in ("g++ -O2 -o {exe} {source}", "g++ -O2"):
        words = compile_command(theirs)
        assert (words.count("main.cpp"), words.count("main"), words[0]) == (1, 1, "g++")


@needs_cpp
def test_their_compile_command_compiles() -> None:
    with judge(CPP_COMPILE_COMMAND="g++ {source} -o {exe} -DWORD=5") as it:
        solution = '#include <cstdio>\nint main() { printf("%d", WORD); }'
        assert it.post("/judge", type="cpp", solution=solution, expected_output="5")["success"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PYTHON_EXECUTE_COMMAND", "docker run python:3.12 {source}", "forked from the interpreter"),
        ("PYTHON_EXECUTE_COMMAND", "/usr/bin/env python3 {source}", "forked from the interpreter"),
        ("PYTHON_EXECUTOR_PATH", "/no/such/python", "forked from the interpreter"),
        ("CPP_EXECUTE_COMMAND", "bwrap -- {exe}", "only {exe}"),
        ("CPP_COMPILE_COMMAND", "g++ {source}", "must be a command that names both"),
        ("WORK_QUEUE_NAME", "mine", "REDIS_KEY_PREFIX"),
        ("REDIS_KEY_PREFIX", "a{b}", "REDIS_KEY_PREFIX"),
        ("LONG_BATCH_MAX_QUEUE_WAIT_TIME", "soon", "LONG_BATCH_MAX_QUEUE_WAIT_TIME"),
    ],
)
def test_a_variable_that_cannot_be_honoured_ends_the_service(name: str, value: str, message: str) -> None:
    done = subprocess.run(
        command("serve", "--port", "0"), env=environment(**{name: value}), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert re.search(f"code-judge: error: .*{re.escape(message)}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_variables_that_are_honoured(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert load_settings().run_workers == 1
    for name, value in {
        "REDIS_URI": "redis://localhost",
        "LONG_BATCH_MAX_QUEUE_WAIT_TIME": "3700",
        "REDIS_KEY_PREFIX": "js",
        "MAX_WORKERS": "0",
        "CPP_COMPILER_PATH": "clang++",
        "CPP_EXECUTE_COMMAND": "{exe}",
        "PYTHON_EXECUTE_COMMAND": f"{sys.executable} {{source}}",
        "PYTHON_EXECUTOR_PATH": "",
        "MAX_BATCH_CHUNK_SIZE": "2",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.run_workers, settings.long_batch_max_queue_wait_time, settings.redis_key_prefix) == (0, 3700, "js")
    assert settings.max_workers >= 16
    assert settings.cpp_compile_command.startswith("clang++ ")
    assert "MAX_BATCH_CHUNK_SIZE" in caplog.text
    assert "PYTHON_EXECUTE" not in caplog.text
    monkeypatch.setenv("RUN_WORKERS", "1")
    assert load_settings().run_workers == 1


def test_a_long_batch_waits_no_longer_than_it_may() -> None:
    with judge(MAX_WORKERS=1, MAX_EXECUTION_TIME=3, LONG_BATCH_MAX_QUEUE_WAIT_TIME=0.3) as it:
        results = it.run_all(["import time; time.sleep(1)", "print(2)"])
        assert [result["reason"] for result in results] == ["", "queue_timeout"]


def test_the_interface_is_described(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == set(create_app(Settings()).routes) - {("GET", "/openapi.json"), ("GET", "/docs")}
    schemas = document["components"]["schemas"]
    assert set(schemas["Submission"]["properties"]) >= {"type", "solution", "input", "expected_output", "sub_id"}
    assert schemas["Submission"]["required"] == ["type", "solution"]
    assert not set(re.findall(r'"#/components/schemas/(\w+)"', http.get("/openapi.json").text)) - set(schemas)
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert all(f"<td>{path}</td>" in page.text for path in document["paths"])
    assert "://" not in page.text.replace("http://www.w3.org", ""), "the page loads nothing from elsewhere"


def test_errors_look_as_fastapis(http: httpx.Client) -> None:
    assert http.get("/nothing").json() == {"detail": "Not Found"}
    refused = http.get("/judge")
    assert (refused.status_code, refused.json(), refused.headers["allow"]) == (
        405,
        {"detail": "Method Not Allowed"},
        "POST",
    )
    wrong = http.post("/judge", json={"type": "python"})
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0] == {"type": "missing", "loc": ["body", "solution"], "msg": "Field required"}
