"""One thing for those who wait for it, as a Ray actor; in a module of its own, which imports nothing heavy."""

import asyncio
from typing import Any


class Mailbox:
    """Holds the content of the last round."""

    def __init__(self) -> None:
        self._round = 0
        self._content: Any = None
        self._changed = asyncio.Condition()

    async def put(self, number: int, content: Any) -> None:
        """number: of the round, from 1 on."""
        async with self._changed:
            self._round, self._content = number, content
            self._changed.notify_all()

    async def get(self, number: int) -> Any:
        async with self._changed:
            await self._changed.wait_for(lambda: self._round >= number)
            return self._content
