"""The public code-judge's endpoints: /judge, /run and their batches.

A reply has the public keys and no others, because public clients build a dataclass from it. Clients that want `kind`
and `line` as well ask for them with `?extra=1`, or with the header `X-Code-Judge-Extra: 1`.
"""

import functools
import json
import logging
import time
import uuid
from typing import Any

from code_judge.asgi import Handler, Reply, Request, Routes
from code_judge.broker import Broker
from code_judge.gate import REQUEST_ID, check_queue
from code_judge.metrics import samples
from code_judge.settings import Settings
from code_judge.wire import EXTRA_KEYS, OUTAGES, Batch, CaseResult, JudgeResult, RunResult, Submission, programs

logger = logging.getLogger(__name__)
JUDGE_KEYS = frozenset(JudgeResult.model_fields)
RUN_KEYS = frozenset(RunResult.model_fields) - EXTRA_KEYS - {"tests"}
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
            results = await self.run([submission], wait=False)
            return Reply(_dump(results[0], public, request.wants_extra))

        return endpoint

    def _batch(self, public: frozenset[str], *, wait: bool) -> Handler:
        async def endpoint(request: Request) -> Reply:
            batch = Batch.model_validate_json(request.body)
            results = await self.run(batch.submissions, wait=wait)
            dumped = b",".join([_dump(result, public, request.wants_extra) for result in results])
            sub_id = json.dumps(batch.sub_id or str(uuid.uuid4())).encode()
            return Reply(b'{"sub_id":%b,"results":[%b]}' % (sub_id, dumped))

        return endpoint

    async def run(self, submissions: list[Submission], *, wait: bool) -> list[RunResult]:
        """Their results, in their order. wait: for as long as a long batch may. Raises Refused: the queue is full."""
        settings = self._settings
        check_queue(self._broker.waiting(), programs(submissions), settings.max_queue)
        for submission in submissions:
            submission.sub_id = submission.sub_id or str(uuid.uuid4())
        life_time = settings.long_batch_max_queue_wait_time if wait else settings.max_queue_work_life_time
        start = time.monotonic()
        results = await self._broker.submit(submissions, life_time=life_time, long=wait)
        self._broker.count(samples(results, time.monotonic() - start))
        lost = [result for result in results if result.reason in OUTAGES]
        if lost:
            of, first = len(results), lost[0]
            logger.warning(
                "request %s: %d of %d without a verdict; %s: %s %s",
                *(REQUEST_ID.get(), len(lost), of, first.sub_id, first.reason, first.stderr.strip()),
            )
        return results


def _dump(result: RunResult, public: frozenset[str], extra: bool) -> bytes:
    return result.model_dump_json(include=_included(public, extra, result.tests is not None)).encode()


@functools.cache
def _included(public: frozenset[str], extra: bool, tests: bool) -> Any:
    """The keys to send. extra: the client asks for more than the public ones. tests: the submission has some."""
    keys = public | EXTRA_KEYS if extra else public
    return dict.fromkeys(keys, True) | {"tests": {"__all__": set(keys & _TEST_KEYS)}} if tests else set(keys)
