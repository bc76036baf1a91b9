"""Redis for a soak with failovers: a primary, its replica, a sentinel, and an address that stands for the primary.

The address is a proxy, as a name or a virtual address is that is moved to the new primary: connections that were made
before stay where they are, also when that is a replica by now.
"""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

NAME = "soak"
DOWN_SECONDS = 1.0
"""A primary that does not answer for so long is given up by the sentinel."""
AGAIN_SECONDS = 15.0
"""After which a sentinel that was told to change the primary, and has not, is told again."""
_PATIENCE_SECONDS = 120.0
_CHUNK = 1 << 16


class Pair:
    """Two servers, of which one is the primary. killed: their process was killed, and started again as a replica."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where redis-server is not installed."""
        if shutil.which("redis-server") is None:
            raise ValueError("--failover-every starts its own Redis: install redis-server, or leave the option out")
        self._folder = folder
        self._ports = [free_port(), free_port()]
        self._sentinel_port = free_port()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._proxy: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._address = 0
        self._leads_to = self._ports[0]

    def start(self) -> None:
        first, second = self._ports
        self._start(first)
        self._start(second, "--replicaof", "127.0.0.1", str(first))
        file = self._folder / "sentinel.conf"
        file.write_text(
            f"port {self._sentinel_port}\ndir {self._folder}\nbind 127.0.0.1\n"
            f"sentinel monitor {NAME} 127.0.0.1 {first} 1\n"
            f"sentinel down-after-milliseconds {NAME} {int(DOWN_SECONDS * 1000)}\n"
            f"sentinel failover-timeout {NAME} 2000\n"
        )
        command = ["redis-server", str(file), "--sentinel"]
        self._processes[self._sentinel_port] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _wait(self._is_whole, "the sentinel sees a primary and its replica")

    @property
    def by_sentinel(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self._sentinel_port}/{NAME}"

    @property
    def by_address(self) -> str:
        """Reachable while `serving`."""
        return f"redis://127.0.0.1:{self._address}"

    async def serve(self) -> None:
        self._proxy = await asyncio.start_server(self._connect, "127.0.0.1", self._address)
        self._address = self._proxy.sockets[0].getsockname()[1]

    async def fail_over(self, *, kill: bool) -> None:
        """The replica takes the primary's place. kill: the primary is killed and comes back as a replica, otherwise
        it is told to become one. Returns when both are there again."""
        old = self._leads_to
        asked = -AGAIN_SECONDS
        if kill:
            self._processes[old].kill()
            self._processes[old].wait()

        def has_taken_over() -> bool:
            nonlocal asked
            if self.primary() != old:
                return True
            if not kill and time.monotonic() - asked > AGAIN_SECONDS:
                # Refused while the last one is not quite over, and given up by a sentinel that gets too little CPU.
                self._ask(self._sentinel_port, "SENTINEL", "FAILOVER", NAME)
                asked = time.monotonic()
            return False

        await asyncio.to_thread(_wait, has_taken_over, "the replica takes over")
        (self._leads_to,) = set(self._ports) - {old}
        if kill:
            await asyncio.to_thread(self._start, old, "--replicaof", "127.0.0.1", str(self._leads_to))
        await asyncio.to_thread(_wait, self._is_whole, "there is a replica again")

    def primary(self) -> int:
        """Its port."""
        return int(self._ask(self._sentinel_port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    async def stop(self) -> None:
        """Idempotent."""
        if self._proxy is not None:
            self._proxy.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _start(self, port: int, *options: str) -> None:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._folder), *options]
        command += ["--save", "", "--repl-diskless-sync-delay", "0"]
        self._processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _wait(lambda: self._ask(port, "PING"), "Redis answers")

    def _is_whole(self) -> bool:
        """The primary is one, and the other its replica, for the sentinel too."""
        primary = self.primary()
        (other,) = set(self._ports) - {primary}
        is_primary, is_replica = (self._ask(port, "INFO", "replication") for port in (primary, other))
        with redis.Redis(port=self._sentinel_port, socket_timeout=2) as sentinel:
            (known,) = sentinel.sentinel_slaves(NAME)
        return (
            is_primary["role"] == "master"
            and is_replica["role"] == "slave"
            and (is_replica["master_port"], is_replica["master_link_status"]) == (primary, "up")
            and known["flags"] == "slave"
        )

    def _ask(self, port: int, *command: str) -> Any:
        with redis.Redis(port=port, socket_timeout=2, decode_responses=True) as client:
            return client.execute_command(*command)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._leads_to)
            with contextlib.closing(there_writer):
                await _first_end(_pump(reader, there_writer), _pump(there_reader, writer))
        except OSError:
            pass
        finally:
            self._pipes.discard(task)
            writer.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def _first_end(*pumps: Any) -> None:
    tasks = [asyncio.ensure_future(pump) for pump in pumps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


def _wait(condition: Any, what: str) -> None:
    """Raises TimeoutError."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with contextlib.suppress(redis.RedisError, OSError, ValueError):
            if condition():
                return
        if time.monotonic() > end:
            raise TimeoutError(f"not within {_PATIENCE_SECONDS:g} s: {what}")
        time.sleep(0.05)
