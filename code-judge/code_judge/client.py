"""A client for training loops: batches, retries our outages until a deadline, and matches results by id."""

import asyncio
import os
import random
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

import httpx

from code_judge.wire import EXTRA_HEADER, OUTAGES, Reason, RunResult, Submission

DEFAULT_URL = "http://127.0.0.1:8088"
_MOST_PAUSE_SECONDS = 2.0


class JudgeOutage(Exception):
    """The judge gave no verdict in time: our failure, not the program's."""


def judge_url(url: str | None = None) -> str:
    """`url` where it is given, else CODE_JUDGE_URL, else DEFAULT_URL."""
    return url or os.environ.get("CODE_JUDGE_URL") or DEFAULT_URL


def headers() -> dict[str, str]:
    """Of our clients' requests: they ask for the extra keys, and bring the token in CODE_JUDGE_TOKEN and the name in
    CODE_JUDGE_CLIENT_ID."""
    token, name = os.environ.get("CODE_JUDGE_TOKEN"), os.environ.get("CODE_JUDGE_CLIENT_ID")
    return (
        {EXTRA_HEADER: "1"}
        | ({"Authorization": f"Bearer {token}"} if token else {})
        | ({"X-Client-Id": name} if name else {})
    )


def check(url: str, timeout: float = 5) -> None:
    """Raises JudgeOutage unless the judge answers within `timeout` seconds."""
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=timeout) as reply:
            if b"pong" in reply.read():
                return
            cause = "something else answers there"
    except (OSError, ValueError) as error:
        cause = str(getattr(error, "reason", error))
    raise JudgeOutage(
        f'code-judge at {url} did not answer in {timeout:g} s ({cause}); start it with "code-judge serve", '
        "or set CODE_JUDGE_URL to where it runs"
    )


@dataclass(eq=False, slots=True)
class _Call:
    submission: Submission
    seconds: float
    result: "asyncio.Future[RunResult]"


class JudgeClient:
    """Use from one event loop at a time.

    Args:
        url: of the service. deadline: seconds one `run` may take with all its retries.
        batch_size, batch_window: calls that begin within `batch_window` seconds share a request.
    """

    def __init__(self, url: str, *, deadline: float = 120, batch_size: int = 16, batch_window: float = 0.005) -> None:
        self.url = url.rstrip("/")
        self.deadline = deadline
        self.batch_size = batch_size
        self.batch_window = batch_window
        self._waiting: list[_Call] = []
        self._requests: set[asyncio.Task[None]] = set()
        self._http: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, submission: Submission) -> RunResult:
        """Run one program, once or with all its tests.

        Raises:
            JudgeOutage: no verdict within the deadline.
            ValueError: the judge refuses the submission as such, or does not know tests.
        """
        loop = asyncio.get_running_loop()
        end, pause, cause = loop.time() + self.deadline, 0.1, ""
        while (left := end - loop.time()) > 0:
            # A new id for every try: a late result of an earlier one is nobody's.
            call = submission.model_copy(update={"sub_id": uuid.uuid4().hex})
            try:
                result = await asyncio.wait_for(self._batched(call, left), left)
            except _Busy as error:
                cause, pause = str(error), max(pause, error.seconds)
            except (httpx.HTTPError, TimeoutError, _BadReply) as error:
                cause = f"{type(error).__name__}: {error}".removesuffix(": ")
            else:
                if result.reason == Reason.INVALID_INPUT:
                    raise ValueError(f"code-judge refuses the submission: {result.stderr}")
                if result.reason not in OUTAGES:
                    self._check_keys(submission, result)
                    return result.model_copy(update={"sub_id": submission.sub_id})
                cause = f"{result.reason} {result.stderr}".strip()
            # All that were refused together do not come back together.
            await asyncio.sleep(min(pause * random.uniform(1, 1.5), max(0.0, end - loop.time())))
            pause = min(2 * pause, _MOST_PAUSE_SECONDS)
        raise JudgeOutage(
            f"code-judge at {self.url} gave no verdict in {self.deadline:g} s, last cause: {cause}; see the judge's "
            "log, restart it, or raise the tool's deadline"
        )

    def _check_keys(self, submission: Submission, result: RunResult) -> None:
        """A judge that does not know of tests runs the program once, without input. That is no verdict on the tests. A
        program that does not compile has no tests' results, and no files."""
        if result.kind == "compile_error":
            return
        if submission.tests is not None and result.tests is None:
            raise ValueError(
                f"the judge at {self.url} ignores `tests`, so it is another or an older one; send a submission a test"
            )
        if submission.fetch and result.files is None:
            raise ValueError(f"the judge at {self.url} ignores `fetch`, so it is another or an older one")

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _batched(self, submission: Submission, seconds: float) -> RunResult:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._http, self._waiting = loop, None, []
        call = _Call(submission, seconds, loop.create_future())
        self._waiting.append(call)
        if len(self._waiting) == 1:
            loop.call_later(self.batch_window, self._flush)
        if len(self._waiting) >= self.batch_size:
            self._flush()
        return await call.result

    def _flush(self) -> None:
        batch, self._waiting = [call for call in self._waiting if not call.result.done()], []
        if batch:
            task = asyncio.ensure_future(self._post(batch))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _post(self, batch: list[_Call]) -> None:
        try:
            results = await self._request([call.submission for call in batch], max(call.seconds for call in batch))
        except Exception as error:
            for call in batch:
                if not call.result.done():
                    call.result.set_exception(error)
            return
        for call in batch:
            if call.result.done():
                continue
            result = results.get(str(call.submission.sub_id))
            if result is not None:
                call.result.set_result(result)
            else:
                call.result.set_exception(_BadReply(f"the reply has no result for {call.submission.sub_id}"))

    async def _request(self, submissions: list[Submission], seconds: float) -> dict[str, RunResult]:
        if self._http is None:
            limits = httpx.Limits(max_connections=256, max_keepalive_connections=32)
            self._http = httpx.AsyncClient(base_url=self.url, limits=limits, headers=headers())
        body: dict[str, Any] = {"type": "batch", "submissions": [s.model_dump(mode="json") for s in submissions]}
        reply = await self._http.post("/run/long-batch", json=body, timeout=httpx.Timeout(seconds, connect=5))
        if reply.status_code in (400, 413, 422):
            raise ValueError(f"code-judge refuses the request ({reply.status_code}): {reply.text[:500]}")
        if reply.status_code in (401, 403):
            raise ValueError(f"code-judge refuses us ({reply.status_code}): {reply.text[:500]}; set CODE_JUDGE_TOKEN")
        if reply.status_code in (429, 503) and (seconds := reply.headers.get("retry-after", "")).isdigit():
            raise _Busy(reply.text[:500], float(seconds))
        reply.raise_for_status()
        try:
            results = [RunResult.model_validate(result) for result in reply.json()["results"]]
        except (ValueError, KeyError, TypeError) as error:
            raise _BadReply(f"not a result: {reply.text[:200]!r}") from error
        return {str(result.sub_id): result for result in results}


class _Busy(Exception):
    """The judge takes no more now. seconds: after which it may."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class _BadReply(Exception):
    """Something answered, but not as the contract says."""
