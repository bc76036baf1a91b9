"""Who may ask, how much may wait, how long a body may take, and that a request can be found in the log."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from judge_harness import EXTRA, Judge, environment, judge
from redis_harness import ROOT
from test_client import Reply, answer, fake, program

from code_judge.asgi import Refused
from code_judge.client import JudgeClient
from code_judge.gate import check_queue

SLEEP = {"type": "python", "solution": "import time; time.sleep(1)"}
HELLO = {"type": "python", "solution": "print('hello')"}


@contextlib.contextmanager
def asking(it: Judge, **body: Any) -> Iterator[None]:
    """While this long batch waits or runs."""
    thread = threading.Thread(target=lambda: it.http.post("/run/long-batch", json=body))
    thread.start()
    try:
        while not it.http.get("/status").json()["busy"]:
            time.sleep(0.01)
        yield
    finally:
        thread.join()


def test_a_full_queue_is_429_and_says_when_to_come_back() -> None:
    with judge(MAX_WORKERS=1, MAX_QUEUE=4) as it:
        with asking(it, submissions=[{**SLEEP, "tests": [{}, {}]}, SLEEP]):
            assert it.http.post("/judge", json=HELLO).status_code == 200
            for path, body in (("/run/batch", {"submissions": [HELLO] * 2}), ("/judge", {**HELLO, "tests": [{}] * 2})):
                refused = it.http.post(path, json=body)
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) > 0
                assert "MAX_QUEUE" in refused.json()["detail"]
        # A request that is larger than the queue has its turn when it is alone.
        assert len(it.run_all(["print(1)"] * 9)) == 9


@pytest.mark.parametrize(("waiting", "new", "refused"), [(0, 99, False), (3, 1, False), (3, 2, True), (9, 1, True)])
def test_how_much_may_wait(waiting: int, new: int, refused: bool) -> None:
    with pytest.raises(Refused) if refused else contextlib.nullcontext():
        check_queue(waiting, new, 4, own=waiting)


async def test_the_client_comes_back_when_it_was_told_to() -> None:
    times: list[float] = []

    def busy(_: list[dict[str, Any]]) -> Reply:
        times.append(time.monotonic())
        return 429, b"full"

    def then(submissions: list[dict[str, Any]]) -> Reply:
        times.append(time.monotonic())
        return answer(submissions)

    async with fake(busy, then, headers="retry-after: 1\r\n") as (_, client):
        assert (await client.run(program("x"))).stdout == "x"
    assert 1 <= times[1] - times[0] < 10


def test_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with judge(CODE_JUDGE_TOKEN="secret") as it:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            for method, path in (("POST", "/judge"), ("GET", "/status"), ("GET", "/metrics"), ("GET", "/nothing")):
                refused = it.http.request(method, path, json=HELLO, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
        assert it.http.get("/ping").status_code == it.http.get("/ready").status_code == 200
        right = {"Authorization": "bearer secret"}
        assert it.http.post("/judge", json=HELLO, headers=right).json()["success"]
        script = (
            "import asyncio, sys\nfrom code_judge.client import JudgeClient\nfrom code_judge.wire import Submission\n"
            "client = JudgeClient(sys.argv[1], deadline=20)\n"
            "print(asyncio.run(client.run(Submission(type='python', solution='print(7)'))).stdout)"
        )
        for token, output in (("secret", "7"), ("other", "CODE_JUDGE_TOKEN")):
            monkeypatch.setenv("CODE_JUDGE_TOKEN", token)
            done = subprocess.run([sys.executable, "-c", script, it.url], capture_output=True, text=True, check=False)
            assert output in done.stdout + done.stderr


def test_a_body_that_does_not_come_is_408_and_holds_nothing() -> None:
    with judge(BODY_TIMEOUT=0.3) as it:
        url = httpx.URL(it.url)
        for sent in (b"", b'{"type": '):
            with socket.create_connection((url.host, url.port), timeout=20) as connection:
                connection.sendall(b"POST /judge HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + sent)
                reply = b""
                while part := connection.recv(4096):
                    reply += part
            assert reply.startswith(b"HTTP/1.1 408")
            assert b"BODY_TIMEOUT" in reply
        assert it.post("/judge", **HELLO)["success"]


def test_a_request_is_found_by_its_id(tmp_path: Any) -> None:
    with (tmp_path / "log").open("w+") as log, judge(MAX_WORKERS=1, MAX_QUEUE_WORK_LIFE_TIME=0.2, stderr=log) as it:
        ids = {it.http.post("/judge", json=HELLO).headers["x-request-id"] for _ in range(3)}
        assert len(ids) == 3
        given = it.http.get("/ping", headers={"X-Request-Id": "mine-7"})
        assert given.headers["x-request-id"] == "mine-7"
        assert it.http.get("/ping", headers={"X-Request-Id": "x" * 200}).headers["x-request-id"] != "x" * 200
        with asking(it, submissions=[SLEEP] * 2):
            body = {**HELLO, "sub_id": "left waiting"}
            it.http.post("/judge", json=body, headers={"X-Request-Id": "step 3, row 9", **EXTRA})
        text = (tmp_path / "log").read_text()
    line = next(line for line in text.splitlines() if "step 3, row 9" in line)
    assert "left waiting" in line
    assert "queue_timeout" in line


async def test_a_real_client_waits_until_there_is_room() -> None:
    with judge(MAX_WORKERS=1, MAX_QUEUE=2) as it, asking(it, submissions=[SLEEP] * 2):
        client = JudgeClient(it.url, deadline=30)
        assert (await client.run(program("print(1)"))).stdout == "1\n"
        await client.close()


UVICORN = ["-m", "uvicorn", "app.main:app", "--port", "0", "--workers"]
IMPOSSIBLE = {"CODE_JUDGE_REQUIRE_ISOLATION": "user,uid"}
"""`user` is there only where the service is not root, and `uid` only where it is."""


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ([*UVICORN, "2"], {"MAX_MEMORY": "much"}, "MAX_MEMORY='much'"),
        ([*UVICORN, "2"], IMPOSSIBLE, "asks for more than this host"),
        (["-m", "code_judge.cli", "serve", "--port", "0"], IMPOSSIBLE, "asks for more than this host"),
        (["run_workers.py"], {"MAX_MEMORY": "much", "REDIS_URI": "redis://x"}, "MAX_MEMORY='much'"),
        (["run_workers.py"], {**IMPOSSIBLE, "REDIS_URI": "redis://127.0.0.1:1"}, "asks for more than this host"),
    ],
    ids=["api settings", "api isolation", "serve isolation", "worker settings", "worker isolation"],
)
def test_what_cannot_start_ends_instead_of_being_started_for_ever(
    arguments: list[str], settings: dict[str, str], message: str
) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=60
    )
    assert message in done.stderr
    # uvicorn's supervisor of several processes says 0.
    assert done.returncode != 0 or "uvicorn" in arguments
