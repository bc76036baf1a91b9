"""Connecting to Redis, and what counts as losing the connection."""

import asyncio
import functools
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio
import redis.exceptions

from code_judge.broker.redis_keys import Keys

logger = logging.getLogger(__name__)
T = TypeVar("T")

LOST = (redis.exceptions.RedisError, OSError)
"""Errors that another try may not meet: no connection, loading, out of memory, cluster down, login refused. A command
that raised one of them may have been executed."""
BLOCK_SECONDS = 1.0
"""How long a read waits in Redis for something to arrive."""
TRIP_SECONDS = 0.004
"""Where jobs wait in the queue anyway, one round trip of a kind in this time carries what has come together."""
_COMMAND_SECONDS = 3.0
_PAUSE_SECONDS = 0.2
_CLUSTER = "redis+cluster", "rediss+cluster"
_SENTINEL = "redis+sentinel", "rediss+sentinel"


class Link:
    """Commands to the Redis at `uri`: redis://, rediss://, unix://; redis+cluster://, rediss+cluster:// for any node of
    a cluster; redis+sentinel://, rediss+sentinel:// for the sentinels that know the primary. All keys live on one node.
    In a cluster and with sentinels it is found anew after the connection was lost, and everywhere when it has become a
    replica."""

    def __init__(self, uri: str, keys: Keys) -> None:
        self.keys = keys
        self._uri = uri
        self._client: Any = None

    async def client(self) -> Any:
        if self._client is None:
            uri = urlsplit(self._uri)
            if uri.scheme in _CLUSTER:
                plain = urlunsplit(uri._replace(scheme=uri.scheme.removesuffix("+cluster")))
                found = await _node_of_cluster(plain, self.keys.streams[0])
                # Another call may have found it meanwhile.
                self._client = self._client if self._client is not None else found
            elif uri.scheme in _SENTINEL:
                found = await _primary_by_sentinel(self._uri)
                self._client = self._client if self._client is not None else found
            else:
                self._client = _connect(self._uri)
        return self._client

    async def call(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """Raises one of LOST."""
        client = None
        try:
            client = await self.client()
            return await command(client)
        except redis.exceptions.MovedError as error:
            await self._leave(client)
            raise redis.exceptions.ConnectionError("the keys have moved to another node") from error
        except LOST as error:
            if is_replica(error):
                # Its name may stand for another host now, which a new connection reaches.
                await self._leave(client)
                raise redis.exceptions.ConnectionError("the primary has become a replica") from error
            # The keys may be with another node when they can be reached again.
            if urlsplit(self._uri).scheme in (*_CLUSTER, *_SENTINEL):
                await self._leave(client)
            raise

    async def retry_for_ever(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """Try until it works, at least once in `_PAUSE_SECONDS`."""
        lost = False
        while True:
            try:
                result = await self.call(command)
            except LOST as error:
                if not lost:
                    logger.warning("Redis cannot be reached (%s); trying again", error)
                lost = True
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                if lost:
                    logger.warning("Redis can be reached again")
                return result

    async def _leave(self, client: Any) -> None:
        """The next call connects anew. What others have under way on `client` ends by itself."""
        if client is not None and self._client is client:
            self._client = None
            await client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def is_replica(error: Exception) -> bool:
    """A script's write is refused with an error of its own."""
    return isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY" in str(error)


async def run_script(client: Any, script: str, keys: Sequence[str], *values: Any) -> Any:
    """Redis keeps the scripts that it has seen; it is told the text only where it has not."""
    try:
        return await client.execute_command("EVALSHA", _digest(script), len(keys), *keys, *values)
    except redis.exceptions.NoScriptError:
        return await client.execute_command("EVAL", script, len(keys), *keys, *values)


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _connect(uri: str) -> Any:
    return redis.asyncio.from_url(
        uri,
        socket_connect_timeout=1,
        socket_timeout=_COMMAND_SECONDS,
        retry=None,
        retry_on_timeout=False,
        health_check_interval=0,
    )


async def _primary_by_sentinel(uri: str) -> Any:
    """Asks one sentinel after the other. Raises one of LOST."""
    parts = urlsplit(uri)
    login, _, hosts = parts.netloc.rpartition("@")
    name = parts.path.strip("/")
    cause: Exception = redis.exceptions.ConnectionError("no sentinel is named")
    for host in hosts.split(","):
        sentinel = _connect(f"redis://{host}")
        try:
            found = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
            if found is None:
                raise redis.exceptions.ConnectionError(f"the sentinel {host} knows no primary {name!r}")
            address = ":".join(part.decode() if isinstance(part, bytes) else str(part) for part in found)
            netloc = f"{login}@{address}" if login else address
            scheme = parts.scheme.removesuffix("+sentinel")
            return _connect(urlunsplit(parts._replace(scheme=scheme, netloc=netloc, path="")))
        except LOST as error:
            cause = error
        finally:
            await sentinel.aclose()
    raise cause


async def _node_of_cluster(uri: str, key: str) -> Any:
    any_node = _connect(uri)
    try:
        slot = int(await any_node.execute_command("CLUSTER", "KEYSLOT", key))
        for first, last, main, *_ in await any_node.execute_command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                host, port = main[0].decode() or urlsplit(uri).hostname, main[1]
                parts = urlsplit(uri)
                login = parts.netloc.rpartition("@")[0]
                netloc = f"{login}@{host}:{port}" if login else f"{host}:{port}"
                return _connect(urlunsplit(parts._replace(netloc=netloc)))
    finally:
        await any_node.aclose()
    raise redis.exceptions.ConnectionError(f"no node of the cluster serves slot {slot}")
