import contextlib
from collections.abc import Iterator

import pytest
from judge_harness import Judge, judge
from redis_harness import api, needs_redis, redis_server, workers

LIMITS = {"MAX_EXECUTION_TIME": 2, "MAX_WORKERS": 8}


@pytest.fixture(scope="session")
def served() -> Iterator[Judge]:
    """One service for all tests that leave it as they found it."""
    with judge(**LIMITS) as it:
        yield it


@pytest.fixture(scope="session", params=["in one process", pytest.param("over Redis", marks=needs_redis)])
def holder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """A service that holds sessions. Over Redis, two API processes take turns, and so do two workers."""
    if request.param == "in one process":
        yield request.getfixturevalue("served")
        return
    with contextlib.ExitStack() as parts:
        redis = parts.enter_context(redis_server(tmp_path_factory.mktemp("redis")))
        it = parts.enter_context(api(redis.uri, "--workers", "2"))
        for _ in range(2):
            parts.enter_context(workers(redis.uri, DRAIN_TIME=1, **LIMITS))
        yield it
