"""Which trajectories may roll back: a seeded coin, or a fixed share of every group. The same run chooses alike."""

import hashlib
from math import floor


def derive_seed(*key: object) -> int:
    """A 63-bit number that depends on every part of the key and on nothing else, in any process."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def passes_gate(probability: float, *key: object) -> bool:
    """True for a share `probability` of keys. Raising the probability only adds keys."""
    return derive_seed("rollback gate", *key) < probability * 2**63


def in_stratum(probability: float, rollout: int) -> bool:
    """Spread over the rollouts 0, 1, 2, … of a group: of the first n, floor(n * probability) are in.

    0.5 takes every second one, so exactly half of a group of an even number.
    """
    # Rounded, because a product such as 0.29 * 100 can be a little less than the integer it stands for.
    before, after = (floor(round(number * probability, 9)) for number in (rollout, rollout + 1))
    return after > before
