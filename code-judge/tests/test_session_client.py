"""The client of sessions, and the example in its guide."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from judge_harness import Judge, judge
from session_harness import open_session

from code_judge.sessions.client import SessionClient, SessionEnded, SessionOutage

GUIDE = Path(__file__).parents[2] / "docs" / "judge-sessions.md"


def test_the_example_of_the_guide(holder: Judge) -> None:
    open_session(holder).delete()
    text = GUIDE.read_text()
    example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    environment = {**os.environ, "CODE_JUDGE_URL": holder.url}
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, env=environment, timeout=60)
    assert "It prints `ZeroDivisionError 2 False`, then `[3, 4]`, then `7` and `107`." in text
    assert done.stdout.split() == ["ZeroDivisionError", "2", "False", "[3,", "4]", "7", "107"], done.stderr


async def test_whose_fault_an_end_is(holder: Judge) -> None:
    open_session(holder).delete()
    client = SessionClient(holder.url, deadline=20)
    session = await client.open()
    await session.run("import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))")
    with pytest.raises(SessionEnded, match="session_ended"):
        await session.run("1")
    await session.close()
    session = await client.open()
    await session.close()
    with pytest.raises(SessionOutage, match="unknown_session"):
        await session.run("1")
    await session.close()
    with pytest.raises(ValueError, match="422"):
        await client.open(warm="pandas")
    await client.close()


async def test_a_judge_that_is_not_there_is_an_outage() -> None:
    client = SessionClient("http://127.0.0.1:9", deadline=0.3)
    with pytest.raises(SessionOutage, match=r"did not answer POST /session in 0\.3 s"):
        await client.open()


class LosesReplies(httpx.AsyncHTTPTransport):
    """The first reply of each path does not arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        reply = await super().handle_async_request(request)
        if request.url.path not in self.lost:
            self.lost.append(request.url.path)
            await reply.aread()
            await reply.aclose()
            raise httpx.ReadError("lost", request=request)
        return reply


async def test_a_call_whose_reply_was_lost_is_repeated_and_carried_out_once(holder: Judge) -> None:
    open_session(holder).delete()
    client = SessionClient(holder.url, deadline=20)
    session = await client.open()
    await session.run("x = 1")
    await client.close()
    transport = LosesReplies()
    client._http = httpx.AsyncClient(base_url=client.url, transport=transport)
    assert (await session.run("x += 1\nx")).stdout == "2\n"
    assert (await session.run("x")).stdout == "2\n"
    await session.close()
    assert transport.lost == [f"/session/{session.id}/run", f"/session/{session.id}"]
    await client.close()


async def test_the_token_is_brought_and_a_wrong_one_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE_JUDGE_TOKEN", "secret")
    with judge(CODE_JUDGE_TOKEN="secret", MAX_SESSIONS=0) as it:
        # It has started. It asks for a pause of 2 s, so that the only try gets its answer.
        assert it.http.get("/ping").status_code == 200
        client = SessionClient(it.url, deadline=1.9)
        with pytest.raises(SessionOutage, match=r"did not answer POST /session in 1\.9 s, .*0 sessions are open"):
            await client.open()
        monkeypatch.setenv("CODE_JUDGE_TOKEN", "other")
        with pytest.raises(ValueError, match="set CODE_JUDGE_TOKEN"):
            await SessionClient(it.url, deadline=60).open()
        await client.close()
