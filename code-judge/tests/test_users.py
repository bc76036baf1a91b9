"""Which users programs get, by the maps of the user namespace that the service runs in."""

import pytest

from code_judge.sandbox.users import RANGE, choose

FULL = "         0          0 4294967295\n"
CONTAINER = "         0     100000      65536\n"
ONE = "         0       1000          1\n"
ROOTLESS = "         0       1000          1\n         1     100000      65536\n"


@pytest.mark.parametrize("chance", [0, 1, 65535, 10**9])
def test_the_range_is_mapped_and_not_used_by_others(chance: int) -> None:
    assert 0x10000000 <= choose(FULL, FULL, chance) < 0x80000000 - RANGE
    for text, first, last in ((CONTAINER, 0, 65536), (ROOTLESS, 0, 65537)):
        found = choose(text, text, chance)
        assert max(first, 2000) <= found <= last - RANGE


def test_groups_count_too() -> None:
    assert choose(FULL, CONTAINER, 3) < 65536
    with pytest.raises(OSError, match="no 4096 users"):
        choose(FULL, ONE, 0)


@pytest.mark.parametrize("text", [ONE, "", "0 100000 3000\n"])
def test_too_few_users(text: str) -> None:
    with pytest.raises(OSError, match="no 4096 users"):
        choose(text, FULL, 0)


def test_zygotes_rarely_share_a_range() -> None:
    assert len({choose(FULL, FULL, chance) for chance in range(1000)}) == 1000
