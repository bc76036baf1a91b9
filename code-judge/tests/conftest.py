from collections.abc import Iterator

import pytest
from judge_harness import Judge, judge


@pytest.fixture(scope="session")
def served() -> Iterator[Judge]:
    """One service for all tests that leave it as they found it."""
    with judge(MAX_EXECUTION_TIME=2, MAX_WORKERS=8) as it:
        yield it
