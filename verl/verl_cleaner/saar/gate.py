"""Which trajectories may roll back: a seeded coin, so that the same run makes the same choices."""

import hashlib


def derive_seed(*key: object) -> int:
    """A 63-bit number that depends on every part of the key and on nothing else, in any process."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def passes_gate(probability: float, *key: object) -> bool:
    """True for a share `probability` of keys. Raising the probability only adds keys."""
    return derive_seed("rollback gate", *key) < probability * 2**63
