"""Which requests come in: who may ask, how much may wait, and how long a body may take.

A refusal says how to do better: 401 asks for the token, 429 says when to try again, 408 ends a connection that is
slower than BODY_TIMEOUT.
"""

import asyncio
import hmac
import itertools
import uuid
from contextvars import ContextVar

from code_judge.asgi import Receive, Refused, Scope, header, read_body
from code_judge.settings import Settings

CLIENT_HEADER = b"x-client-id"
OPEN_PATHS = frozenset(("/ping", "/ready"))
"""For probes, which have no token."""
RETRY_SECONDS = 2
"""After which a full queue may have room."""
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""Of the request that is being answered: the client's X-Request-Id, or one of ours. Logs and the reply name it."""

SPARE_SHARE = 100
"""Of a full queue, a client that has less than one part in so many of it is still taken."""
_MOST_OVER = 1.1
"""Times MAX_QUEUE, up to which that holds."""
_MOST_ID = 100
_numbers, _process = itertools.count(1), uuid.uuid4().hex[:8]


class Gate:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokens = [token.encode() for token in settings.tokens]

    def client(self, scope: Scope) -> str:
        """Whose request this is: clients take turns. With several tokens it is the token, which nobody can make up;
        else X-Client-Id, or else the address. Raises Refused without a right bearer token, where one is set."""
        if self._tokens and scope["path"] not in OPEN_PATHS:
            kind, _, given = (header(scope, b"authorization") or "").partition(" ")
            same = [hmac.compare_digest(given.strip().encode(), token) for token in self._tokens]
            if kind.lower() != "bearer" or not any(same):
                raise Refused(
                    401,
                    "this service wants the header 'Authorization: Bearer TOKEN' with its CODE_JUDGE_TOKEN",
                    (b"www-authenticate", b"Bearer"),
                )
            if len(same) > 1:
                return f"token {given.strip()}"
        named = header(scope, CLIENT_HEADER)
        if named is not None and 0 < len(named) <= _MOST_ID:
            return f"id {named}"
        address = scope.get("client")
        return f"address {address[0]}" if address else ""

    async def body(self, scope: Scope, receive: Receive) -> bytes:
        """Raises Refused, and Disconnected."""
        seconds, size = self._settings.body_timeout, self._settings.max_body_size
        try:
            async with asyncio.timeout(seconds):
                return await read_body(scope, receive, size)
        except TimeoutError:
            raise Refused(
                408, f"the body did not come within {seconds:g} s (BODY_TIMEOUT)", (b"connection", b"close")
            ) from None


def check_queue(waiting: int, new: int, most: int, *, own: int) -> None:
    """waiting: programs in the queue or running. own: the client's of them. new: how many a request adds; one that is
    larger than the queue is taken when there are no others. Raises Refused."""
    if waiting and waiting + new > most:
        if own + new <= most / SPARE_SHARE and waiting + new <= _MOST_OVER * most:
            return
        raise Refused(
            429,
            f"{waiting} programs wait or run; with {new} more they would be more than {most} (MAX_QUEUE)",
            (b"retry-after", str(RETRY_SECONDS).encode()),
        )


def request_id(scope: Scope) -> str:
    given = header(scope, b"x-request-id")
    if given is not None and given.isascii() and given.isprintable() and 0 < len(given) <= _MOST_ID:
        return given
    return f"{_process}-{next(_numbers)}"
