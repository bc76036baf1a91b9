"""Which users the programs of a zygote get, one for each slot: a range of numbers that nobody else uses.

Standard library only: the zygote imports it.
"""

import os

RANGE = 0x1000
"""Users of one zygote: one for the process that kills other users' processes, the rest for slots."""
_HIGH = 0x10000000
"""From here on no distribution and no container tool hands out users."""
_LOW = 2000
"""Below are the users of the system and the first people."""


def choose(uid_map: str, gid_map: str, chance: int) -> int:
    """The first of a range of RANGE users that this user namespace has, as user and as group.

    uid_map, gid_map: the texts of /proc/self/uid_map and gid_map. chance: any number; zygotes with different
    ones mostly get different ranges. High numbers are preferred. Raises OSError where there is no such range.
    """
    common = [
        (max(first, other), min(last, other_last))
        for first, last in _ranges(uid_map)
        for other, other_last in _ranges(gid_map)
    ]
    for lowest in (_HIGH, _LOW):
        # One in 32 bits is "no user".
        usable = [(max(first, lowest), min(last, 0x7FFFFFFF)) for first, last in common]
        wide = [(first, (last - first) // RANGE) for first, last in usable if last - first >= RANGE]
        if wide:
            first, count = max(wide, key=lambda found: found[1])
            return first + chance % count * RANGE
    raise OSError(f"this user namespace has no {RANGE} users in a row for the programs: {uid_map.split()}")


def choose_here() -> int:
    """For this process's namespace, at random. Raises OSError."""
    with open("/proc/self/uid_map") as uids, open("/proc/self/gid_map") as gids:
        return choose(uids.read(), gids.read(), int.from_bytes(os.urandom(2), "little"))


def _ranges(text: str) -> list[tuple[int, int]]:
    """First number, and the one after the last."""
    lines = [[int(word) for word in line.split()] for line in text.splitlines()]
    return [(first, first + count) for first, _, count in lines]
