"""A client of sessions for training loops: repeats what our outages interrupt, and says whose fault an end is."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Mapping
from typing import Any

import httpx

from code_judge.client import JudgeOutage, headers, judge_url
from code_judge.sessions.wire import CellResult, Commit

_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.1, 2.0


class SessionOutage(JudgeOutage):
    """The session has expired or is lost, or the judge did not answer: our failure, not a cell's."""


class SessionEnded(Exception):
    """The session was broken by its own cells: go back to a snapshot, or open another one."""


class SessionClient:
    """Use from one event loop at a time.

    Args:
        url: of the service; None: as `code_judge.client.judge_url`. deadline: seconds one call may take with all its
            repetitions.
    """

    def __init__(self, url: str | None = None, *, deadline: float = 120) -> None:
        self.url = judge_url(url).rstrip("/")
        self.deadline = deadline
        self._http: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self, *, warm: str = "bare", ttl: float | None = None) -> "RemoteSession":
        """Raises SessionOutage, and ValueError for values that the judge refuses."""
        reply = await self.call("POST", "/session", {"warm": warm, "ttl": ttl})
        return RemoteSession(self, str(reply["session"]))

    async def close(self) -> None:
        """The connections; sessions stay open until they are closed or expire."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Raises SessionOutage, SessionEnded, ValueError."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._http is None:
            self._loop, self._http = (
                loop,
                httpx.AsyncClient(base_url=self.url, limits=httpx.Limits(max_connections=256), headers=headers()),
            )
        end, pause, cause = loop.time() + self.deadline, _PAUSE_SECONDS, "no time"
        while (left := end - loop.time()) > 0:
            try:
                timeout = httpx.Timeout(left, connect=min(5, left))
                reply = await self._http.request(method, path, json=body, timeout=timeout)
                return _read(reply)
            except (httpx.TransportError, _TryAgain) as error:
                cause = f"{type(error).__name__}: {error}".removesuffix(": ")
                pause = max(pause, getattr(error, "seconds", 0.0))
            await asyncio.sleep(min(pause * random.uniform(1, 1.5), max(0.0, end - loop.time())))
            pause = min(2 * pause, _MOST_PAUSE_SECONDS)
        raise SessionOutage(
            f"code-judge at {self.url} did not answer {method} {path} in {self.deadline:g} s, last cause: {cause}; see "
            "the judge's log, restart it, or raise the deadline"
        )


class RemoteSession:
    """One session; every method raises as `SessionClient.call`."""

    def __init__(self, client: SessionClient, name: str) -> None:
        self.id = name
        self._client = client

    async def run(self, code: str, *, commit: Commit | str = Commit.SUCCESS, echo: bool = True) -> CellResult:
        """Run a cell. A repetition after a lost reply does not run it twice."""
        body = {"code": code, "commit": str(commit), "echo": echo, "cut_middle": True, "run_id": uuid.uuid4().hex}
        return CellResult.model_validate(await self._call("run", body))

    async def snapshot(self, *, replace: bool = False) -> str:
        """The name of the snapshot, for `rollback`. replace: give up the earlier ones."""
        return str((await self._call("snapshot", {"replace": replace}))["snapshot"])

    async def rollback(self, snapshot: str | None = None) -> None:
        """Back to a snapshot, or the latest. It stays; later ones go."""
        await self._call("rollback", {"snapshot": snapshot})

    async def commit(self, snapshot: str | None = None) -> None:
        """Give up a snapshot, or all."""
        await self._call("commit", {"snapshot": snapshot})

    async def branch(self, snapshot: str | None = None) -> "RemoteSession":
        """Another session that stands where this one stands, or at a snapshot of it."""
        return RemoteSession(self._client, str((await self._call("branch", {"snapshot": snapshot}))["session"]))

    async def close(self) -> None:
        """End it, if it has not ended."""
        with contextlib.suppress(_Gone, SessionEnded):
            await self._client.call("DELETE", f"/session/{self.id}")

    async def _call(self, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._client.call("POST", f"/session/{self.id}/{action}", body)


class _TryAgain(Exception):
    """The judge asks for it. seconds: after which, at least."""

    def __init__(self, message: str, seconds: str = "") -> None:
        super().__init__(message)
        self.seconds = float(seconds) if seconds.isdigit() else 0.0


class _Gone(SessionOutage):
    """There is no such session any longer."""


def _read(reply: httpx.Response) -> dict[str, Any]:
    try:
        content = reply.json()
    except ValueError:
        content = {}
    if reply.status_code == 200 and isinstance(content, dict):
        return content
    if reply.status_code in (401, 403):
        raise ValueError(f"code-judge refuses us ({reply.status_code}): {reply.text[:500]}; set CODE_JUDGE_TOKEN")
    detail = content.get("detail") if isinstance(content, dict) else None
    if not isinstance(detail, dict):
        if reply.status_code in (400, 404, 405, 413, 422):
            raise ValueError(f"code-judge refuses the request ({reply.status_code}): {reply.text[:500]}")
        raise _TryAgain(f"HTTP status {reply.status_code}: {reply.text[:200]}", reply.headers.get("retry-after", ""))
    message = f"{detail.get('error')}: {detail.get('message')}"
    if detail.get("retriable"):
        raise _TryAgain(message, reply.headers.get("retry-after", ""))
    if not detail.get("infrastructure", True):
        raise SessionEnded(message)
    raise (_Gone if reply.status_code in (404, 410) else SessionOutage)(message)
