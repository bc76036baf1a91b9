"""The session tool against a real judge: cells share an interpreter, and what is taken back is gone from it."""

import asyncio
import contextlib
import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from composing import CONF
from judge_harness import descendants
from live_judge import live_judge
from loop_harness import PROMPT, ScriptedServer, make_config, make_loop, rollback, run_loop
from omegaconf import OmegaConf
from redis_harness import api, needs_redis, redis_server, workers
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop as StockToolAgentLoop
from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_cleaner.rollout.python_session import PythonSession
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop
from verl_cleaner.saar.outcome import InfrastructureError, ToolOutcome

FILE = OmegaConf.to_container(OmegaConf.load(CONF / "python_session.yaml").tools[0])
SCHEMA = OpenAIFunctionToolSchema.model_validate(FILE["tool_schema"])
BREAK = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))"


@contextlib.contextmanager
def over_redis(folder: Path) -> Iterator[str]:
    """Two API processes take turns, and so do two workers."""
    with redis_server(folder) as redis, contextlib.ExitStack() as parts:
        it = parts.enter_context(api(redis.uri, "--workers", "2"))
        for _ in range(2):
            parts.enter_context(workers(redis.uri, DRAIN_TIME=1, MAX_EXECUTION_TIME=2))
        yield it.url


@pytest.fixture(scope="module", params=["in one process", pytest.param("over Redis", marks=needs_redis)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    alone = request.param == "in one process"
    with live_judge(MAX_EXECUTION_TIME=2) if alone else over_redis(tmp_path_factory.mktemp("redis")) as address:
        reply = httpx.post(f"{address}/session", timeout=60)
        if reply.status_code == 501:
            pytest.skip(f"this host has no sessions: {reply.text}")
        httpx.delete(f"{address}/session/{reply.json()['session']}")
        yield address


def make_tool(url: str, **config: Any) -> PythonSession:
    return PythonSession({**FILE["config"], "url": url, "deadline": 30, "warm": "bare", **config}, SCHEMA)


def call(*cells: str) -> str:
    calls = (json.dumps({"name": "python_session", "arguments": {"code": code}}) for code in cells)
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in calls)


async def trajectory(url: str, *script: str, loop: type = ToolAgentLoop, **values: Any) -> tuple[Any, list[str]]:
    """The output, and what the tool answered in the trajectory that remains."""
    config = make_config(*(rollback(**values) if loop is ToolAgentLoop else []))
    output, messages = await run_loop(loop, ScriptedServer([*script, "Done."]), config, tools=[make_tool(url)])
    await no_session_is_open(url)
    return output, [message["content"] for message in messages if message["role"] == "tool"]


async def no_session_is_open(url: str) -> None:
    async with httpx.AsyncClient() as http:
        for turn in range(400):
            if turn % 50 == 0:
                # The harness keeps the trajectory in a cycle.
                gc.collect()
            if (await http.get(f"{url}/session")).json() == {"sessions": 0}:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("a session was not closed")


@pytest.mark.parametrize("loop", [ToolAgentLoop, StockToolAgentLoop])
async def test_calls_share_an_interpreter_which_ends_with_the_trajectory(url: str, loop: type) -> None:
    cells = ["import math\nx = [1]", "x.append(math.floor(2.5))", "x"]
    _, answers = await trajectory(url, *map(call, cells), loop=loop)
    assert answers == ["", "", "[1, 2]"]


async def test_trajectories_do_not_share_one(url: str) -> None:
    both = (trajectory(url, call(f"x = {n}"), call("x += 10"), call("x")) for n in (1, 2))
    first, second = await asyncio.gather(*both)
    assert (first[1][-1], second[1][-1]) == ("11", "12")


async def test_a_failed_cell_is_taken_back_with_its_tokens(url: str) -> None:
    output, answers = await trajectory(url, call("x = [1]"), call("x.append(2)\n1 / 0"), call("x"))
    assert output.extra_fields[RECORD_FIELD]["recovered"] == 1
    assert answers == ["", "[1]"]


async def test_so_are_the_calls_beside_it_that_succeeded(url: str) -> None:
    before, failed = (
        call("x = [1]\nopen('f', 'w').write('one')"),
        call("x.append(2)\nopen('f', 'w').write('two')", "1 / 0"),
    )
    output, answers = await trajectory(url, before, failed, call("x, open('f').read()"))
    assert output.extra_fields[RECORD_FIELD]["recovered"] == 1
    assert answers[-1] == "([1], 'one')"


async def test_without_rollback_they_stay_and_the_failed_one_leaves_nothing(url: str) -> None:
    turns = call("x = [1]"), call("x.append(2)", "x.append(3)\n1 / 0"), call("x")
    _, answers = await trajectory(url, *turns, enable_tool_rollback=False)
    assert answers[-1] == "[1, 2]"


async def test_a_first_turn_that_is_taken_back_leaves_a_fresh_interpreter(url: str) -> None:
    _, answers = await trajectory(url, call("x = 1", "1 / 0"), call("'x' in dir()"))
    assert answers == ["False"]


async def test_several_retries_each_begin_where_the_turn_began(url: str) -> None:
    failing = [call("x += 1", f"y = {n}\n1 / 0") for n in range(2)]
    output, answers = await trajectory(url, call("x = 0"), *failing, call("x += 1\nx"))
    assert output.extra_fields[RECORD_FIELD]["recovered"] == 1
    assert answers[-1] == "1"


async def test_calls_of_one_turn_run_in_the_order_in_which_they_are_written(url: str) -> None:
    _, answers = await trajectory(url, call("x = []", *(f"x.append({n})\nx" for n in range(6))))
    assert answers[-1] == "[0, 1, 2, 3, 4, 5]"


async def test_code_that_breaks_the_interpreter_is_the_models_fault_and_can_be_taken_back(url: str) -> None:
    _, answers = await trajectory(url, call("x = 1"), call(BREAK, "x = 2"), call("x"))
    assert answers[-1] == "1"
    turns = call("x = 1"), call(BREAK), call("x"), call("'x' in dir()")
    _, answers = await trajectory(url, *turns, enable_tool_rollback=False)
    assert answers[2].startswith("session_ended: earlier code has broken the interpreter")
    assert answers[3] == "False"


async def test_a_session_that_the_judge_has_lost_is_an_outage(url: str) -> None:
    class Forgetful(PythonSession):
        async def execute(self, *args: Any, **kwargs: Any) -> Any:
            answer = await super().execute(*args, **kwargs)
            session = self._trajectories[kwargs["agent_data"]].session
            assert session is not None
            await session.close()
            return answer

    tool = Forgetful({"url": url, "deadline": 5, "warm": "bare"}, SCHEMA)
    server = ScriptedServer([call("x = 1"), call("x"), "Done."])
    with pytest.raises(InfrastructureError, match="unknown_session"):
        await run_loop(ToolAgentLoop, server, make_config(*rollback()), tools=[tool])


@needs_redis
async def test_so_is_one_whose_worker_was_killed(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri, DRAIN_TIME=0) as worker:
        if it.http.post("/session").status_code == 501:
            pytest.skip("this host has no sessions")

        class Killed(PythonSession):
            async def execute(self, *args: Any, **kwargs: Any) -> Any:
                answer = await super().execute(*args, **kwargs)
                (process,) = (pid for pid in descendants(worker.pid) if b"spawn_main" in command_of(pid))
                os.kill(process, signal.SIGKILL)
                return answer

        tool = Killed({"url": it.url, "deadline": 60, "warm": "bare"}, SCHEMA)
        server = ScriptedServer([call("x = 1"), call("x"), "Done."])
        with pytest.raises(InfrastructureError, match="session_lost"):
            await run_loop(ToolAgentLoop, server, make_config(*rollback()), tools=[tool])


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_judge_that_is_not_there_is_an_outage() -> None:
    tool = make_tool("http://127.0.0.1:9", deadline=0.3)
    with pytest.raises(InfrastructureError, match=r"did not answer POST /session in 0\.3 s"):
        await run_loop(ToolAgentLoop, ScriptedServer([call("1")]), make_config(*rollback()), tools=[tool])


async def test_malformed_calls_and_loops_without_trajectories() -> None:
    class Data:
        pass

    tool = make_tool("http://127.0.0.1:9")
    response, _, extra = await tool.execute("i", {"code": 3}, agent_data=Data())
    assert response.text == "Invalid tool call: argument 'code' must be a string, got int"
    assert extra == {"outcome": ToolOutcome.fault("malformed_call")}
    with pytest.raises(TypeError, match="without agent_data="):
        await tool.execute("i", {"code": "1"})


async def test_it_ends_at_once_where_nobody_else_keeps_the_trajectory(url: str) -> None:
    loop = make_loop(
        ToolAgentLoop, ScriptedServer([call("1"), "Done."]), make_config(*rollback()), tools=[make_tool(url)]
    )
    gc.disable()
    try:
        await loop.run({"temperature": 1.0}, raw_prompt=PROMPT, global_steps=1, index=3, session_id=0)
        async with httpx.AsyncClient() as http:
            for _ in range(200):
                if (await http.get(f"{url}/session")).json() == {"sessions": 0}:
                    return
                await asyncio.sleep(0.02)
        raise AssertionError("the session was not closed")
    finally:
        gc.enable()
