"""Opens sessions, runs their cells one after the other, and ends them when they have been idle for too long."""

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from code_judge.sandbox.link import SandboxLost
from code_judge.sandbox.privileges import STATES
from code_judge.sandbox.session_pool import (
    CellExecution,
    Family,
    FamilyEnded,
    Limits,
    SessionPool,
    SessionsImpossible,
    StateBroken,
)
from code_judge.sessions.states import Head, States
from code_judge.sessions.wire import CellResult, OpenSession, RunCell, SessionError, SessionInfo, Trouble
from code_judge.settings import Settings
from code_judge.tasks import background, end
from code_judge.verdict import verdict
from code_judge.wire import Options, Submission

REMEMBERED = 10_000
"""Sessions that have ended and whose end can be told."""
SWEEP_SECONDS = 0.5
_BOOT_LENGTH = 8
_NAME = re.compile(r"[0-9a-f]{32}")

Admit = Callable[[Hashable], AbstractAsyncContextManager[Callable[[bool], None]]]


@dataclass(eq=False, slots=True)
class _Shared:
    """What a session and its branches have together. lock: one cell of them runs at a time, in order of arrival."""

    family: Family
    states: States = field(default_factory=States)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(eq=False, slots=True)
class _Session:
    """calls: under way. last: the id and the result of the last cell that had an id; running: of the one that runs."""

    id: str
    shared: _Shared
    head: Head
    ttl: float
    used: float
    calls: int = 0
    cells: int = 0
    cpu: float = 0.0
    last: tuple[str, CellResult] | None = None
    running: "dict[str, asyncio.Task[CellResult]]" = field(default_factory=dict)


class Sessions:
    """admit: entered while a cell runs; yields what is told when the cell waits for something else than a core."""

    def __init__(self, settings: Settings, admit: Admit) -> None:
        self._settings = settings
        self._admit = admit
        self._pool = SessionPool()
        self._sessions: dict[str, _Session] = {}
        self._opening = 0
        self._ended: OrderedDict[str, SessionError] = OrderedDict()
        self._boot = secrets.token_hex(_BOOT_LENGTH // 2)
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sweeping = background(self._sweep())

    async def stop(self) -> None:
        await end([self._sweeping] if self._sweeping is not None else [])
        await self._pool.close()

    def __len__(self) -> int:
        return len(self._sessions)

    async def open(self, wanted: OpenSession) -> SessionInfo:
        """Raises SessionError."""
        settings = self._settings
        if len(self._sessions) + self._opening >= settings.max_sessions:
            raise SessionError(
                Trouble.TOO_MANY, f"{settings.max_sessions} sessions are open (MAX_SESSIONS); delete some"
            )
        limits = Limits(settings.max_execution_time, settings.max_memory << 20, settings.max_output_size)
        self._opening += 1
        try:
            family = await self._pool.open(wanted.warm, limits)
        except SessionsImpossible as error:
            raise SessionError(Trouble.UNAVAILABLE, str(error)) from error
        except (SandboxLost, OSError) as error:
            raise SessionError(Trouble.NOT_OPENED, str(error)) from error
        finally:
            self._opening -= 1
        ttl = min(wanted.ttl or settings.session_ttl, settings.session_ttl)
        shared = _Shared(family)
        session = self._add(shared, Head(shared.states, 0), ttl)
        return self.info(session.id)

    async def run(self, name: str, cell: RunCell) -> CellResult:
        """A caller that goes away stops its cell. Raises SessionError."""
        session = self._get(name)
        if cell.run_id is not None and session.last is not None and session.last[0] == cell.run_id:
            return session.last[1]
        task = session.running.get(cell.run_id) if cell.run_id is not None else None
        if task is None:
            task = asyncio.create_task(self._run(session, cell))
            if cell.run_id is not None:
                session.running[cell.run_id] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # What has begun is killed and comes to its end; what has not, never begins.
            if not self._pool.kill(session.shared.family, task):
                task.cancel()
            raise
        finally:
            if cell.run_id is not None and task.done():
                session.running.pop(cell.run_id, None)

    async def snapshot(self, name: str, *, replace: bool = False) -> str:
        """replace: give up the earlier ones."""
        session = self._get(name)
        async with session.shared.lock:
            self._get(name)
            if replace:
                self._pool.drop(session.shared.family, session.head.forget(None))
            if len(session.shared.states) >= STATES:
                why = f"session {name} and its branches hold {STATES} states; commit some snapshots"
                raise SessionError(Trouble.TOO_MANY, why)
            return session.head.snapshot()

    async def rollback(self, name: str, snapshot: str | None) -> str:
        """Returns the snapshot's name."""
        session = self._get(name)
        async with session.shared.lock:
            self._get(name)
            found = _find(session, snapshot)
            self._pool.drop(session.shared.family, session.head.rollback(found))
            return found

    async def commit(self, name: str, snapshot: str | None) -> None:
        """Give up a snapshot, or all."""
        session = self._get(name)
        async with session.shared.lock:
            self._get(name)
            found = None if snapshot is None else _find(session, snapshot)
            self._pool.drop(session.shared.family, session.head.forget(found))

    async def branch(self, name: str, snapshot: str | None) -> SessionInfo:
        """Another session that stands where this one stands, or at a snapshot of it."""
        session = self._get(name)
        if len(self._sessions) >= self._settings.max_sessions:
            raise SessionError(Trouble.TOO_MANY, f"{self._settings.max_sessions} sessions are open (MAX_SESSIONS)")
        async with session.shared.lock:
            self._get(name)
            head = session.head
            state = head.state if snapshot is None else head.snapshots[_find(session, snapshot)]
            return self.info(self._add(session.shared, Head(session.shared.states, state), session.ttl).id)

    async def delete(self, name: str) -> None:
        self._finish(self._get(name), SessionError(Trouble.UNKNOWN, f"session {name} was deleted"))

    def info(self, name: str) -> SessionInfo:
        session = self._get(name)
        left = session.ttl - (time.monotonic() - session.used if not session.calls else 0)
        snapshots = list(session.head.snapshots)
        return SessionInfo(session=name, cells=session.cells, cpu=session.cpu, expires_in=left, snapshots=snapshots)

    # ---- cells -----------------------------------------------------------------------------------------------------

    async def _run(self, session: _Session, cell: RunCell) -> CellResult:
        session.calls += 1
        try:
            async with session.shared.lock:
                self._get(session.id)
                result = await self._admitted(session, cell)
        finally:
            session.calls -= 1
            session.used = time.monotonic()
        if cell.run_id is not None:
            session.last = cell.run_id, result
        return result

    async def _admitted(self, session: _Session, cell: RunCell) -> CellResult:
        entered = self._admit(object())
        wait = self._settings.max_queue_work_life_time
        try:
            on_idle = await asyncio.wait_for(entered.__aenter__(), wait)
        except TimeoutError:
            raise SessionError(Trouble.QUEUE_TIMEOUT, f"the cell could not be started within {wait:g} s") from None
        try:
            return await self._execute(session, cell, on_idle)
        finally:
            await entered.__aexit__(None, None, None)

    async def _execute(self, session: _Session, cell: RunCell, on_idle: Callable[[bool], None]) -> CellResult:
        shared, head = session.shared, session.head
        session.cells += 1
        number, target = session.cells, shared.states.new()
        try:
            done = await self._pool.run(
                shared.family,
                head.state,
                target,
                cell.code,
                number=number,
                echo=cell.echo,
                keep=cell.commit.value,
                drop=shared.states.held_once(head.state),
                on_idle=on_idle,
            )
        except FamilyEnded as error:
            raise self._lose(
                shared, Trouble.ENDED, f"session {session.id} was ended by its own cells: {error}"
            ) from error
        except StateBroken as error:
            why = f"session {session.id} was broken by its own cells: {error}; go back to a snapshot, or open another"
            raise SessionError(Trouble.ENDED, why) from error
        except (SandboxLost, OSError) as error:
            raise self._lose(shared, Trouble.LOST, f"session {session.id} is lost: {error}") from error
        session.cpu += done.cpu
        if done.kept:
            # The state that nobody holds any longer has gone with the cell.
            head.move(target)
        return self._result(cell, number, done)

    def _result(self, cell: RunCell, number: int, done: CellExecution) -> CellResult:
        settings = self._settings
        options = Options(cut_middle=cell.cut_middle)
        submission = Submission(type="python", solution="", sub_id=cell.run_id, options=options)
        found = verdict(submission, done.execution, settings.max_stdout_error_length, memory=settings.max_memory)
        if done.execution.why == "exited":
            found.stderr += "the cell has ended its process, so its effects are gone\n"
        if done.note:
            found.stderr += f"the cell's effects cannot be kept: {done.note}\n"
        return CellResult(**found.model_dump(), cell=number, committed=done.kept, cpu=done.cpu)

    # ---- beginning and end -----------------------------------------------------------------------------------------

    def _add(self, shared: _Shared, head: Head, ttl: float) -> _Session:
        session = _Session(f"{self._boot}{secrets.token_hex(12)}", shared, head, ttl, time.monotonic())
        self._sessions[session.id] = session
        return session

    def _get(self, name: str) -> _Session:
        session = self._sessions.get(name)
        if session is None:
            raise self._ended.get(name) or self._unknown(name)
        session.used = time.monotonic()
        return session

    def _unknown(self, name: str) -> SessionError:
        if name.startswith(self._boot) or not _NAME.fullmatch(name):
            return SessionError(Trouble.UNKNOWN, f"there is no session {name}")
        return SessionError(
            Trouble.LOST,
            f"session {name} was not opened in this process of the service: that one has ended, or there are several; "
            "serve sessions with one process",
        )

    def _lose(self, shared: _Shared, trouble: Trouble, why: str) -> SessionError:
        """All sessions of the family have ended."""
        error = SessionError(trouble, why)
        for session in [session for session in self._sessions.values() if session.shared is shared]:
            self._finish(session, error)
        return error

    def _finish(self, session: _Session, error: SessionError) -> None:
        del self._sessions[session.id]
        self._ended[session.id] = error
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        shared = session.shared
        gone = session.head.end()
        if len(shared.states):
            self._pool.drop(shared.family, gone)
        else:
            self._pool.end(shared.family)

    async def _sweep(self) -> None:
        """End sessions that are idle, and learn of those whose processes have gone."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for session in list(self._sessions.values()):
                if session.id not in self._sessions or session.calls:
                    continue
                try:
                    session.shared.family.check()
                except FamilyEnded as error:
                    self._lose(
                        session.shared, Trouble.ENDED, f"session {session.id} was ended by its own cells: {error}"
                    )
                except SandboxLost as error:
                    self._lose(session.shared, Trouble.LOST, f"session {session.id} is lost: {error}")
                else:
                    if now - session.used > session.ttl:
                        why = f"session {session.id} was not used for {session.ttl:g} s and has ended"
                        self._finish(session, SessionError(Trouble.EXPIRED, why))


def _find(session: _Session, snapshot: str | None) -> str:
    try:
        return session.head.find(snapshot)
    except KeyError:
        there = ", ".join(session.head.snapshots) or "none"
        wanted = "a snapshot" if snapshot is None else f"the snapshot {snapshot!r}"
        raise SessionError(
            Trouble.UNKNOWN_SNAPSHOT, f"session {session.id} has not {wanted}; there are {there}"
        ) from None
