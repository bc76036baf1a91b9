"""An HTTP client that costs little beside the judge it measures: one kept connection a caller, JSON in and out."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit


class BadStatus(ConnectionError):
    """status: another one than 200."""

    def __init__(self, status: int, reply: str) -> None:
        super().__init__(reply)
        self.status = status


class Connection:
    """One request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> Any:
        """Raises BadStatus."""
        return await self._request("POST", path, body)

    async def delete(self, path: str) -> None:
        """As post."""
        await self._request("DELETE", path, {})

    async def _request(self, method: str, path: str, body: Any) -> Any:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=1 << 20)
        reader, writer = self._streams
        content = json.dumps(body).encode()
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = answer.lower().split("\r\n")
        length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), None)
        if length is None:
            raise ConnectionError(f"the judge's reply has no Content-Length: {lines[0]}")
        data = await reader.readexactly(length)
        if " 200 " not in lines[0] + " ":
            raise BadStatus(int(lines[0].split()[1]), f"{lines[0]}: {data[:200]!r}")
        return json.loads(data)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
