"""Opens sessions, moves them between their states, and ends them when they have been idle for too long."""

import asyncio
import time

from code_judge.sandbox.link import SandboxLost
from code_judge.sandbox.privileges import STATES
from code_judge.sandbox.session_pool import FamilyEnded, Limits, SessionPool, SessionsImpossible
from code_judge.sessions.cells import Admit, Cells
from code_judge.sessions.register import Register, Session, Shared
from code_judge.sessions.states import Head
from code_judge.sessions.wire import CellResult, OpenSession, Places, RunCell, SessionError, SessionInfo, Trouble
from code_judge.settings import Settings
from code_judge.tasks import background, end

SWEEP_SECONDS = 0.5


class Sessions:
    """Those that this process holds. admit: see Cells."""

    def __init__(self, settings: Settings, admit: Admit) -> None:
        self._settings = settings
        self._pool = SessionPool(settings.code_judge_python)
        self._register = Register()
        self._cells = Cells(settings, self._pool, self._register, admit=admit, lose=self._lose)
        self._opening = 0
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sweeping = background(self._sweep())

    async def stop(self) -> None:
        await end([self._sweeping] if self._sweeping is not None else [])
        await self._pool.close()

    @property
    def home(self) -> str:
        """With which the names of these sessions begin."""
        return self._register.home

    @property
    def places(self) -> Places:
        """A session that is being opened has its place already."""
        return Places(len(self._register) + self._opening, self._settings.max_sessions)

    async def open(self, wanted: OpenSession) -> SessionInfo:
        """Raises SessionError."""
        settings = self._settings
        self._check_room()
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
        shared = Shared(family)
        return self.info(self._register.add(shared, Head(shared.states, 0), ttl).id)

    async def run(self, name: str, cell: RunCell, *, within: float | None = None) -> CellResult:
        """As Cells.run. within: MAX_QUEUE_WORK_LIFE_TIME if it is not given."""
        return await self._cells.run(
            name, cell, within=self._settings.max_queue_work_life_time if within is None else within
        )

    async def snapshot(self, name: str, *, replace: bool = False) -> str:
        """replace: give up the earlier ones."""
        session = self._register.get(name)
        async with session.shared.lock:
            self._register.get(name)
            if replace:
                self._pool.drop(session.shared.family, session.head.forget(None))
            if len(session.shared.states) >= STATES:
                why = f"session {name} and its branches hold {STATES} states; commit some snapshots"
                raise SessionError(Trouble.TOO_MANY, why)
            return session.head.snapshot()

    async def rollback(self, name: str, snapshot: str | None) -> str:
        """Returns the snapshot's name."""
        session = self._register.get(name)
        async with session.shared.lock:
            self._register.get(name)
            found = _find(session, snapshot)
            self._pool.drop(session.shared.family, session.head.rollback(found))
            return found

    async def commit(self, name: str, snapshot: str | None) -> None:
        """Give up a snapshot, or all."""
        session = self._register.get(name)
        async with session.shared.lock:
            self._register.get(name)
            found = None if snapshot is None else _find(session, snapshot)
            self._pool.drop(session.shared.family, session.head.forget(found))

    async def branch(self, name: str, snapshot: str | None) -> SessionInfo:
        """Another session that stands where this one stands, or at a snapshot of it."""
        session = self._register.get(name)
        self._check_room()
        async with session.shared.lock:
            self._register.get(name)
            head = session.head
            state = head.state if snapshot is None else head.snapshots[_find(session, snapshot)]
            return self.info(self._register.add(session.shared, Head(session.shared.states, state), session.ttl).id)

    def delete(self, name: str) -> None:
        self._finish(self._register.get(name), SessionError(Trouble.UNKNOWN, f"session {name} was deleted"))

    def info(self, name: str) -> SessionInfo:
        session = self._register.get(name)
        left = session.ttl - (time.monotonic() - session.used if not session.calls else 0)
        snapshots = list(session.head.snapshots)
        return SessionInfo(session=name, cells=session.cells, cpu=session.cpu, expires_in=left, snapshots=snapshots)

    def _check_room(self) -> None:
        taken, most = self.places
        if taken >= most:
            raise SessionError(Trouble.TOO_MANY, f"{most} sessions are open (MAX_SESSIONS); delete some")

    def _lose(self, shared: Shared, trouble: Trouble, why: str) -> SessionError:
        """All sessions of the family have ended."""
        error = SessionError(trouble, why)
        for session in self._register.family(shared):
            self._finish(session, error)
        return error

    def _finish(self, session: Session, error: SessionError) -> None:
        self._register.remove(session, error)
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
            for session in self._register:
                if session not in self._register or session.calls:
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


def _find(session: Session, snapshot: str | None) -> str:
    try:
        return session.head.find(snapshot)
    except KeyError:
        there = ", ".join(session.head.snapshots) or "none"
        wanted = "a snapshot" if snapshot is None else f"the snapshot {snapshot!r}"
        raise SessionError(
            Trouble.UNKNOWN_SNAPSHOT, f"session {session.id} has not {wanted}; there are {there}"
        ) from None
