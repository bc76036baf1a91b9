"""The client of sessions, and the example in its guide."""

import os
import re
import subprocess
import sys
from pathlib import Path

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


async def test_the_token_is_brought_and_a_wrong_one_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE_JUDGE_TOKEN", "secret")
    with judge(CODE_JUDGE_TOKEN="secret", MAX_SESSIONS=0) as it:
        # The judge asks for a pause of 2 s, so that the only try gets its answer.
        client = SessionClient(it.url, deadline=1.9)
        with pytest.raises(SessionOutage, match="0 sessions are open"):
            await client.open()
        monkeypatch.setenv("CODE_JUDGE_TOKEN", "other")
        with pytest.raises(ValueError, match="set CODE_JUDGE_TOKEN"):
            await SessionClient(it.url, deadline=60).open()
        await client.close()
