"""The public code-judge's endpoints: /judge, /run and their batches.

A reply has the public keys and no others, because public clients build a dataclass from it. Clients that want `kind`
and `line` as well ask for them with `?extra=1`, or with the header `X-Code-Judge-Extra: 1`.
"""

import functools
import json
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from code_judge.asgi import Handler, Refused, Reply, Request, Routes
from code_judge.broker import Broker
from code_judge.gate import REQUEST_ID, check_queue
from code_judge.metrics import samples
from code_judge.settings import Settings
from code_judge.wire import (
    EXTRA_KEYS,
    FILE_KEYS,
    OUTAGES,
    Batch,
    CaseResult,
    JudgeResult,
    RunResult,
    Submission,
    programs,
)

logger = logging.getLogger(__name__)
JUDGE_KEYS = frozenset(JudgeResult.model_fields)
RUN_KEYS = frozenset(RunResult.model_fields) - EXTRA_KEYS - FILE_KEYS - {"tests"}
_TEST_KEYS = frozenset(CaseResult.model_fields)


class Contract:
    def __init__(self, broker: Broker, settings: Settings) -> None:
        self._broker = broker
        self._settings = settings

    def add_to(self, routes: Routes) -> None:
        for name, keys in (("judge", JUDGE_KEYS), ("run", RUN_KEYS)):
            routes.add("POST", f"/{name}", self._single(keys))
            routes.add("POST", f"/{name}/batch", self._batch(keys, wait=False))
            routes.add("POST", f"/{name}/long-batch", self._batch(keys, wait=True))

    def _single(self, public: frozenset[str]) -> Handler:
        async def endpoint(request: Request) -> Reply:
            submission = Submission.model_validate_json(request.body)
            results = await self.run([submission], client=request.client, wait=False)
            return Reply(_dump(submission, results[0], public, request.wants_extra))

        return endpoint

    def _batch(self, public: frozenset[str], *, wait: bool) -> Handler:
        async def endpoint(request: Request) -> Reply:
            batch = Batch.model_validate_json(request.body)
            results = await self.run(batch.submissions, client=request.client, wait=wait)
            extra, pairs = request.wants_extra, zip(batch.submissions, results, strict=True)
            dumped = b",".join([_dump(submission, result, public, extra) for submission, result in pairs])
            sub_id = json.dumps(batch.sub_id or str(uuid.uuid4())).encode()
            return Reply(b'{"sub_id":%b,"results":[%b]}' % (sub_id, dumped))

        return endpoint

    async def run(self, submissions: list[Submission], *, client: str, wait: bool) -> list[RunResult]:
        """Their results, in their order. client: see Gate.client. wait: for as long as a long batch may.

        Raises Refused: the queue is full, or the files are too large.
        """
        settings, broker = self._settings, self._broker
        check_queue(broker.waiting(), programs(submissions), settings.max_queue, own=broker.waiting_of(client))
        for submission in submissions:
            submission.sub_id = submission.sub_id or str(uuid.uuid4())
            if submission.files:
                _check_size(submission.files, settings.max_files_size)
        life_time = settings.long_batch_max_queue_wait_time if wait else settings.max_queue_work_life_time
        start = time.monotonic()
        results = await broker.submit(submissions, life_time=life_time, long=wait, client=client)
        broker.count(samples(results, time.monotonic() - start))
        lost = [result for result in results if result.reason in OUTAGES]
        if lost:
            of, first = len(results), lost[0]
            logger.warning(
                "request %s: %d of %d without a verdict; %s: %s %s",
                *(REQUEST_ID.get(), len(lost), of, first.sub_id, first.reason, first.stderr.strip()),
            )
        return results


def _dump(submission: Submission, result: RunResult, public: frozenset[str], extra: bool) -> bytes:
    included = _included(public, extra, result.tests is not None, bool(submission.fetch))
    return result.model_dump_json(include=included).encode()


@functools.cache
def _included(public: frozenset[str], extra: bool, tests: bool, fetch: bool) -> Any:
    """The keys to send. extra: the client asks for more than the public ones. tests, fetch: the submission has some."""
    keys = public | (EXTRA_KEYS if extra else frozenset()) | (FILE_KEYS if fetch else frozenset())
    return dict.fromkeys(keys, True) | {"tests": {"__all__": set(keys & _TEST_KEYS)}} if tests else set(keys)


def _check_size(files: Mapping[str, bytes], most: int) -> None:
    size = sum(map(len, files.values()))
    if size > most:
        raise Refused(413, f"a submission's files have {size} bytes, more than {most} (MAX_FILES_SIZE)")
