"""Puts together what a process needs for sessions, with Redis or without."""

from code_judge.sessions.actions import Here, Service
from code_judge.sessions.cells import Admit
from code_judge.sessions.manager import Sessions
from code_judge.settings import Settings


class Held:
    """The sessions that a process with a worker holds; with Redis, for all API processes. admit: see Cells."""

    def __init__(self, settings: Settings, admit: Admit) -> None:
        self.sessions = Sessions(settings, admit)
        self._home = None
        if settings.redis_uri is not None:
            # Imported where it is used: a service without Redis starts without it.
            from code_judge.sessions.redis_home import SessionHome

            self._home = SessionHome(
                self.sessions, settings.redis_uri, prefix=settings.redis_key_prefix, drain_time=settings.drain_time
            )

    async def start(self) -> None:
        await self.sessions.start()
        if self._home is not None:
            await self._home.start()

    async def drain(self) -> None:
        """See SessionHome.drain."""
        if self._home is not None:
            await self._home.drain()

    async def stop(self) -> None:
        if self._home is not None:
            await self._home.stop()
        await self.sessions.stop()


def service(settings: Settings, held: Held | None) -> Service:
    """What answers /session. held: by this process."""
    if settings.redis_uri is None:
        assert held is not None
        return Here(held.sessions)
    from code_judge.sessions.redis_api import RedisSessions

    return RedisSessions(
        settings.redis_uri,
        prefix=settings.redis_key_prefix,
        patience=settings.redis_patience,
        life_time=settings.max_queue_work_life_time,
    )
