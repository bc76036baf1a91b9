"""The client between a training loop and the judge: batches, retries, matches by id, keeps outage apart from fault."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from judge_harness import Judge, judge, start

from code_judge.client import JudgeClient, JudgeOutage, check
from code_judge.wire import Submission

Reply = tuple[int, Any]
Behaviour = Callable[[list[dict[str, Any]]], Reply]


def ok(submission: dict[str, Any], **more: Any) -> dict[str, Any]:
    result = {"success": True, "run_success": True, "cost": 0.1, "reason": "", "stdout": submission["solution"]}
    return {"sub_id": submission["sub_id"], "kind": "ok", **result, **more}


def answer(submissions: list[dict[str, Any]]) -> Reply:
    return 200, {"results": [ok(submission) for submission in submissions]}


class FakeJudge:
    """Answers the n-th request with the n-th behaviour, the last one for ever after. None = hang up."""

    def __init__(self, *behaviours: Behaviour | None, headers: str = "") -> None:
        self.headers = headers
        self.behaviours = itertools.chain(behaviours, itertools.repeat(behaviours[-1]))
        self.requests: list[list[dict[str, Any]]] = []
        self.url = ""

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:-2])
                submissions = json.loads(await reader.readexactly(int(headers["content-length"])))["submissions"]
                self.requests.append(submissions)
                behaviour = next(self.behaviours)
                if behaviour is None:
                    return
                status, body = behaviour(submissions)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\n{self.headers}content-length: {len(content)}\r\n\r\n".encode() + content
                )
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def fake(
    *behaviours: Behaviour | None, headers: str = "", **options: Any
) -> AsyncIterator[tuple[FakeJudge, JudgeClient]]:
    it = FakeJudge(*behaviours, headers=headers)
    server = await asyncio.start_server(it.connect, "127.0.0.1", 0)
    client = JudgeClient("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], **{"deadline": 20, **options})  # noqa: UP031
    async with server:
        yield it, client
        await client.close()


def program(solution: str, **more: Any) -> Submission:
    return Submission(type="python", solution=solution, **more)


async def test_calls_that_begin_together_share_a_request() -> None:
    async with fake(answer, batch_size=4) as (it, client):
        results = await asyncio.gather(*(client.run(program(str(i), sub_id=f"mine {i}")) for i in range(8)))
    assert [len(request) for request in it.requests] == [4, 4]
    assert [(r.stdout, r.sub_id) for r in results] == [(str(i), f"mine {i}") for i in range(8)]


async def test_results_are_matched_by_id_not_by_place() -> None:
    def reversed_answer(submissions: list[dict[str, Any]]) -> Reply:
        return 200, {"results": [ok(submission) for submission in reversed(submissions)]}

    async with fake(reversed_answer) as (_, client):
        results = await asyncio.gather(*(client.run(program(str(i))) for i in range(5)))
    assert [result.stdout for result in results] == list("01234")


async def test_a_late_result_of_an_earlier_try_is_nobodys() -> None:
    """The retry gets another submission's result under the first try's id beside its own."""
    seen: list[dict[str, Any]] = []

    def first(submissions: list[dict[str, Any]]) -> Reply:
        seen.extend(submissions)
        return 200, {"results": [ok(s, reason="queue_timeout", run_success=False) for s in submissions]}

    def second(submissions: list[dict[str, Any]]) -> Reply:
        stale = [{**ok(s), "stdout": "stale"} for s in seen]
        return 200, {"results": [*stale, *(ok(s) for s in submissions)]}

    async with fake(first, second) as (it, client):
        result = await client.run(program("mine"))
    assert result.stdout == "mine"
    assert it.requests[0][0]["sub_id"] != it.requests[1][0]["sub_id"]


def refuse(status: int, body: Any = b"") -> Behaviour:
    return lambda _: (status, body)


def outage(reason: str) -> Behaviour:
    return lambda submissions: (200, {"results": [ok(s, reason=reason, run_success=False) for s in submissions]})


@pytest.mark.parametrize(
    "trouble",
    [
        None,
        refuse(500, b"oops"),
        refuse(503),
        refuse(200, b"<html>a proxy's page</html>"),
        refuse(200, {"results": [{"sub_id": "x"}]}),
        refuse(200, {"results": []}),
        outage("queue_timeout"),
        outage("internal_error"),
    ],
    ids=["hangs up", "500", "503", "not json", "not a result", "no result", "queue timeout", "internal error"],
)
async def test_an_outage_is_retried_and_then_named(trouble: Behaviour | None) -> None:
    async with fake(trouble, answer) as (it, client):
        assert (await client.run(program("x"))).stdout == "x"
        assert len(it.requests) == 2
    async with fake(trouble, deadline=1.0) as (it, client):
        with pytest.raises(JudgeOutage, match=r"gave no verdict in 1 s, last cause"):
            await client.run(program("x"))
        assert len(it.requests) >= 2


async def test_a_fault_of_the_program_is_a_result_and_not_retried() -> None:
    def timeout(submissions: list[dict[str, Any]]) -> Reply:
        return 200, {"results": [ok(s, reason="worker_timeout", run_success=False) for s in submissions]}

    async with fake(timeout) as (it, client):
        assert (await client.run(program("x"))).reason == "worker_timeout"
        assert len(it.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_request_is_an_error_of_the_caller(status: int) -> None:
    async with fake(refuse(status, b"too big")) as (it, client):
        with pytest.raises(ValueError, match="too big"):
            await client.run(program("x"))
        assert len(it.requests) == 1


async def test_an_invalid_submission_is_an_error_of_the_caller() -> None:
    async with fake(outage("invalid_input")) as (_, client):
        with pytest.raises(ValueError, match="refuses the submission"):
            await client.run(program("x"))


async def test_a_call_that_is_given_up_harms_no_other() -> None:
    async with fake(answer, batch_window=0.1) as (it, client):
        given_up, kept = asyncio.create_task(client.run(program("a"))), asyncio.create_task(client.run(program("b")))
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await kept).stdout == "b"
        assert [s["solution"] for s in it.requests[0]] == ["b"]


def test_a_client_serves_one_event_loop_after_the_other(served: Judge) -> None:
    client = JudgeClient(served.url, deadline=20)

    async def once(i: int) -> None:
        assert (await client.run(program(f"print({i})"))).stdout == f"{i}\n"
        await client.close()

    for i in range(2):
        asyncio.run(once(i))


async def test_two_hundred_calls_against_the_real_judge(served: Judge) -> None:
    client = JudgeClient(served.url, deadline=60)
    results = await asyncio.gather(*(client.run(program(f"print({i})", sub_id=str(i))) for i in range(200)))
    assert [(r.sub_id, r.stdout) for r in results] == [(str(i), f"{i}\n") for i in range(200)]
    await client.close()


async def test_a_judge_that_dies_in_the_middle_and_comes_back() -> None:
    process, url = start(MAX_EXECUTION_TIME=10)
    client = JudgeClient(url, deadline=60)
    call = asyncio.create_task(client.run(program("import time; time.sleep(1); print('done')")))
    await asyncio.to_thread(await_busy, url)
    process.kill()
    process.wait()
    with judge("--port", url.rsplit(":", 1)[1]) as again:
        assert again.url == url
        assert (await call).stdout == "done\n"
    await client.close()


async def test_a_judge_that_does_not_come_back() -> None:
    process, url = start()
    client = JudgeClient(url, deadline=2)
    assert (await client.run(program("print(1)"))).stdout == "1\n"
    process.kill()
    process.wait()
    with pytest.raises(JudgeOutage, match="gave no verdict in 2 s, last cause: ConnectError"):
        await client.run(program("print(1)"))
    with pytest.raises(JudgeOutage, match='start it with "code-judge serve"'):
        check(url)
    await client.close()


def await_busy(url: str) -> None:
    end = time.monotonic() + 20
    while not httpx.get(url + "/status?extra=1").json()["busy"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_check(served: Judge) -> None:
    check(served.url)
