"""Runs the cells of sessions: one after the other, admitted beside programs, each id once."""

import asyncio
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager

from code_judge.sandbox.link import SandboxLost
from code_judge.sandbox.session_pool import CellExecution, FamilyEnded, SessionPool, StateBroken
from code_judge.sessions.register import Register, Running, Session, Shared
from code_judge.sessions.wire import CellResult, RunCell, SessionError, Trouble
from code_judge.settings import Settings
from code_judge.verdict import verdict
from code_judge.wire import Options, Submission

Admit = Callable[[Hashable], AbstractAsyncContextManager[Callable[[bool], None]]]
Lose = Callable[[Shared, Trouble, str], SessionError]
STOPPED = "cancelled"
"""Why a cell ended that all its callers have left."""


class Cells:
    """admit: entered while a cell runs; yields what is told when the cell waits for something else than a core. lose:
    called when a session and its branches have ended; returns the error for their callers."""

    def __init__(self, settings: Settings, pool: SessionPool, register: Register, *, admit: Admit, lose: Lose) -> None:
        self._settings = settings
        self._pool = pool
        self._register = register
        self._admit = admit
        self._lose = lose

    async def run(self, name: str, cell: RunCell, *, within: float) -> CellResult:
        """within: seconds in which it has to be admitted, once it is its turn. The last caller that goes away stops the
        cell. Raises SessionError."""
        session = self._register.get(name)
        if cell.run_id is not None and session.last is not None and session.last[0] == cell.run_id:
            return session.last[1]
        running = session.running.get(cell.run_id) if cell.run_id is not None else None
        if running is None:
            running = Running(asyncio.create_task(self._run(session, cell, within)))
            if cell.run_id is not None:
                session.running[cell.run_id] = running
        running.callers += 1
        try:
            return await asyncio.shield(running.task)
        except asyncio.CancelledError:
            # What has begun is killed and comes to its end; what has not, never begins.
            if running.callers == 1 and not self._pool.kill(session.shared.family, running.task):
                running.task.cancel()
            raise
        finally:
            running.callers -= 1
            if cell.run_id is not None and not running.callers and session.running.get(cell.run_id) is running:
                # Whoever comes back after the last caller has left runs it anew.
                del session.running[cell.run_id]

    async def _run(self, session: Session, cell: RunCell, within: float) -> CellResult:
        session.calls += 1
        try:
            async with session.shared.lock:
                self._register.get(session.id)
                result = await self._admitted(session, cell, within)
        finally:
            session.calls -= 1
            session.used = time.monotonic()
        if cell.run_id is not None and result.kind != STOPPED:
            session.last = cell.run_id, result
        return result

    async def _admitted(self, session: Session, cell: RunCell, within: float) -> CellResult:
        entered = self._admit(object())
        try:
            on_idle = await asyncio.wait_for(entered.__aenter__(), within)
        except TimeoutError:
            raise SessionError(Trouble.QUEUE_TIMEOUT, f"the cell could not be started within {within:g} s") from None
        try:
            return await self._execute(session, cell, on_idle)
        finally:
            await entered.__aexit__(None, None, None)

    async def _execute(self, session: Session, cell: RunCell, on_idle: Callable[[bool], None]) -> CellResult:
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
