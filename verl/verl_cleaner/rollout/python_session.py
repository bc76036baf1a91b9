"""`python_session`: runs the policy's cells in one interpreter for the whole trajectory.

Variables, imports and files stay from call to call. A call that fails leaves nothing, and where SAAR takes a turn back,
what all of its calls did goes back with their tokens: before the calls a snapshot is taken, which costs no copy
(docs/judge-sessions.md).
"""

import asyncio
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse

from code_judge.sessions.client import RemoteSession, SessionClient, SessionEnded, SessionOutage
from verl_cleaner.rollout.interpreter_text import code_argument, response_text
from verl_cleaner.rollout.tools import tool_contract
from verl_cleaner.saar.outcome import FailureKind, InfrastructureError, ToolOutcome

logger = logging.getLogger(__name__)

ENDED = "session_ended"
"""Kind of a call whose interpreter was broken by calls before it."""
ENDED_TEXT = (
    f"{ENDED}: earlier code has broken the interpreter. The next call starts a new one, without your variables."
)


@dataclass(eq=False, slots=True)
class _Trajectory:
    """session: None before the first call. lock: calls of one turn run in the order in which they were written."""

    session: RemoteSession | None = None
    ended: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@tool_contract(stateful=True, on_exception={"Exception": "stop", "InfrastructureError": "outage"})
class PythonSession(BaseTool):
    """One session a trajectory, opened by its first call and closed when the trajectory has ended.

    config: `url` (else as `code_judge.client.judge_url`), `deadline` (s, for one call with all its repetitions),
    `echo_last_expression`, `warm` (bare, numpy or sympy), `ttl` (s without a call after which the judge ends it).
    Outcomes are as `code_interpreter`'s. A session that the judge has lost is an outage; one that the policy's own code
    has broken is its fault, of the kind `session_ended`.
    """

    def __init__(self, config: dict[str, Any], tool_schema: Any) -> None:
        super().__init__(config, tool_schema)
        self.client = SessionClient(config.get("url"), deadline=float(config.get("deadline", 120)))
        self.echo = bool(config.get("echo_last_expression", True))
        self.warm = str(config.get("warm", "numpy"))
        self.ttl = config.get("ttl")
        self._trajectories: weakref.WeakKeyDictionary[Any, _Trajectory] = weakref.WeakKeyDictionary()
        self._closing: set[asyncio.Task[None]] = set()

    async def execute(
        self, instance_id: str, parameters: Any, agent_data: Any = None, **_: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        if agent_data is None:
            raise TypeError(
                f"tool {self.name!r} keeps a session for each trajectory, and this agent loop calls it without "
                "agent_data=; use VeRL's ToolAgentLoop or a subclass, or code_interpreter"
            )
        code, problem = code_argument(parameters)
        if code is None:
            text, outcome = f"Invalid tool call: {problem}", ToolOutcome.fault(FailureKind.MALFORMED_CALL)
        else:
            text, outcome = await self._run(self._trajectory(agent_data), code)
        return ToolResponse(text=text), 0.0, {"outcome": outcome}

    async def snapshot(self, agent_data: Any) -> str | None:
        """Before a turn's calls. None: there is no session yet to go back to."""
        trajectory = self._trajectories.get(agent_data)
        if trajectory is None or trajectory.session is None or trajectory.ended:
            return None
        with _outages():
            # Only the latest turn is ever taken back.
            return await trajectory.session.snapshot(replace=True)

    async def restore(self, agent_data: Any, state: str | None) -> None:
        """To before the calls of a turn that was taken back."""
        trajectory = self._trajectories.get(agent_data)
        if trajectory is None or trajectory.session is None:
            return
        with _outages():
            if state is None:
                session, trajectory.session = trajectory.session, None
                await session.close()
            else:
                await trajectory.session.rollback(state)
        trajectory.ended = False

    def _trajectory(self, agent_data: Any) -> _Trajectory:
        trajectory = self._trajectories.get(agent_data)
        if trajectory is None:
            trajectory = self._trajectories[agent_data] = _Trajectory()
            # VeRL does not tell a tool that a trajectory has ended; it lets go of its data.
            weakref.finalize(agent_data, self._finish, trajectory, asyncio.get_running_loop()).atexit = False
        return trajectory

    async def _run(self, trajectory: _Trajectory, code: str) -> tuple[str, ToolOutcome]:
        async with trajectory.lock:
            with _outages():
                try:
                    if trajectory.session is None or trajectory.ended:
                        await self._open(trajectory)
                    assert trajectory.session is not None
                    result = await trajectory.session.run(code, echo=self.echo)
                except SessionEnded:
                    trajectory.ended = True
                    return ENDED_TEXT, ToolOutcome.fault(ENDED)
        return response_text(result), ToolOutcome(None if result.kind == "ok" else result.kind)

    async def _open(self, trajectory: _Trajectory) -> None:
        old, trajectory.session = trajectory.session, None
        if old is not None:
            await old.close()
        trajectory.session = await self.client.open(warm=self.warm, ttl=self.ttl)
        trajectory.ended = False

    def _finish(self, trajectory: _Trajectory, loop: asyncio.AbstractEventLoop) -> None:
        """From whichever thread lets go of the trajectory. Where the loop is closed, the judge ends it by its ttl."""
        if trajectory.session is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._close, trajectory.session)

    def _close(self, session: RemoteSession) -> None:
        task = asyncio.get_running_loop().create_task(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: "asyncio.Task[None]") -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("a session was not closed, the judge ends it after its ttl: %s", error)


@contextmanager
def _outages() -> Iterator[None]:
    try:
        yield
    except SessionOutage as error:
        raise InfrastructureError(str(error)) from error
