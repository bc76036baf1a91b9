"""HTTP on plain ASGI: requests and replies, routes, bodies up to a size, clients that disconnect."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from code_judge.wire import EXTRA_HEADER

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

JSON, HTML = b"application/json", b"text/html; charset=utf-8"
_EXTRA = EXTRA_HEADER.lower().encode()
_NO = ("", "0", "false", "no")


@dataclass(frozen=True, slots=True)
class Request:
    """parts: of the path, where the route names them. client: see Gate.client."""

    scope: Scope
    body: bytes
    parts: dict[str, str] = field(default_factory=dict)
    client: str = ""

    def header(self, name: bytes) -> str | None:
        """name: in lower case."""
        return header(self.scope, name)

    def query(self, name: str) -> str | None:
        text = self.scope["query_string"]
        return dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True)).get(name) if text else None

    @property
    def wants_extra(self) -> bool:
        """Whether the client asks for keys beside those of the public contract."""
        return not all(answer is None or answer.lower() in _NO for answer in self._extra())

    def _extra(self) -> Iterable[str | None]:
        yield self.header(_EXTRA)
        yield self.query("extra")


@dataclass(frozen=True, slots=True)
class Reply:
    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Handler = Callable[[Request], Awaitable[Reply]]


class Routes:
    """By method and path. A part of a path in braces, as in /session/{id}, stands for any text without a slash."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._patterns: list[tuple[list[str], dict[str, Handler]]] = []

    def add(self, method: str, path: str, handler: Handler) -> None:
        if "{" not in path:
            self._exact.setdefault(path, {})[method] = handler
            return
        pattern = path.split("/")
        for known, handlers in self._patterns:
            if known == pattern:
                handlers[method] = handler
                return
        self._patterns.append((pattern, {method: handler}))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Method and path of each."""
        patterns = {"/".join(pattern): handlers for pattern, handlers in self._patterns}
        for path, handlers in (self._exact | patterns).items():
            yield from ((method, path) for method in handlers)

    def find(self, method: str, path: str) -> tuple[Handler | None, dict[str, str], list[str]]:
        """The handler, the parts that the path names, and the path's methods: none where there is no such path."""
        handlers, parts = self._exact.get(path), dict[str, str]()
        if handlers is None and path.endswith("/"):
            handlers = self._exact.get(path[:-1])
        if handlers is None:
            given = path.split("/")
            for pattern, candidates in self._patterns:
                if len(pattern) == len(given) and all(
                    p[:1] == "{" or p == g for p, g in zip(pattern, given, strict=True)
                ):
                    handlers = candidates
                    parts = {p[1:-1]: g for p, g in zip(pattern, given, strict=True) if p[:1] == "{"}
                    break
        handlers = handlers or {}
        return handlers.get(method), parts, sorted(handlers)


def header(scope: Scope, name: bytes) -> str | None:
    """name: in lower case."""
    value = next((value for key, value in scope["headers"] if key == name), None)
    return None if value is None else value.decode("latin-1")


class Refused(Exception):
    """The request is answered with this status, detail and headers."""

    def __init__(self, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Disconnected(Exception):
    """The client has gone; nobody waits for a reply."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body.

    Raises:
        Refused: it is too large, as soon as that is known, whether the client announces the length or not.
        Disconnected: before the body was complete.
    """
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return bytes(body)


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit} bytes (MAX_BODY_SIZE)")


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The work's result; the work is cancelled when the client goes away. Raises Disconnected."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone:
            raise Disconnected from None
        raise
    finally:
        watcher.cancel()


async def send_reply(send: Send, reply: Reply, *more: tuple[bytes, bytes]) -> None:
    """more: headers."""
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
        *more,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def lifespan(
    receive: Receive, send: Send, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> None:
    """Call `start` before the first request and `stop` after the last; a failing start ends the server."""
    await receive()
    try:
        await start()
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await stop()
    await send({"type": "lifespan.shutdown.complete"})
