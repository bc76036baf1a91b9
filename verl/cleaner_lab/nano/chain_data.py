"""The data of a cold start on chains: rows for RL and held-out, and traces, all without a common question."""

import random
from typing import Any

from cleaner_lab.nano import chain_traces, numkit_api
from cleaner_lab.nano.chain_traces import Interpreter, Shares
from cleaner_lab.nano.chains import FAMILIES, LONGER, UNTOUCHED, Chain, make_chains, to_row
from cleaner_lab.nano.settings import Settings
from cleaner_lab.nano.traces import Trace

_OTHER_SHARE = 0.15
"""Of the held-out chains, those of each kind that the training does not have."""
_SHORTER_SHARE = 0.3
"""Of the traces, those of chains with fewer parts, so that no length is all that the policy knows."""


def make(settings: Settings) -> tuple[dict[str, list[dict[str, Any]]], list[Trace]]:
    """(rows of each split, traces)."""
    rows: dict[str, list[dict[str, Any]]] = {}
    drift = settings.habit > 0
    families = numkit_api.TRAINED if drift else tuple(FAMILIES)
    taken: frozenset[str] = frozenset()
    for split, size in (("val", settings.val_size), ("train", settings.train_size)):
        chains = make_chains(split, size, seed=settings.seed, calls=settings.calls, families=families, exclude=taken)
        if split == "val":
            chains += _other_kinds(settings, drift=drift)
        rows[split] = [to_row(chain, split=split, index=index) for index, chain in enumerate(chains)]
        taken |= {chain.question for chain in chains}
    return rows, _traces(settings, taken)


def _other_kinds(settings: Settings, *, drift: bool) -> list[Chain]:
    size = round(_OTHER_SHARE * settings.val_size)
    families = numkit_api.TRAINED if drift else tuple(FAMILIES)
    calls = settings.calls
    longer = make_chains("val", size, seed=settings.seed, calls=calls + 1, families=families, kind=LONGER)
    if not drift:
        return longer
    untouched = numkit_api.UNTOUCHED
    return longer + make_chains("val", size, seed=settings.seed, calls=calls, families=untouched, kind=UNTOUCHED)


def _traces(settings: Settings, taken: frozenset[str]) -> list[Trace]:
    rng = random.Random(settings.seed)
    # One part more than trained, too: the policy shall meet no length for the first time when it is measured on it.
    lengths = [*range(1, settings.calls), settings.calls + 1]
    sizes = {calls: round(_SHORTER_SHARE * settings.traces / len(lengths)) for calls in lengths}
    sizes[settings.calls] = settings.traces - sum(sizes.values())
    chains = [
        chain
        for calls, size in sizes.items()
        for chain in make_chains("cold_start", size, seed=settings.seed, calls=calls, exclude=taken)
    ]
    rng.shuffle(chains)
    shares = Shares(
        settings.visible_share, settings.silent_share, settings.retry_visible, settings.retry_silent,
        settings.habit, settings.context,
    )  # fmt: skip
    versions = _versions(settings, rng)
    return [
        chain_traces.make_trace(chain, rng, *versions[index % len(versions)], shares)
        for index, chain in enumerate(chains)
    ]


def _versions(settings: Settings, rng: random.Random) -> list[tuple[Interpreter, numkit_api.Api | None]]:
    if not settings.habit:
        apis: list[numkit_api.Api | None] = [None]
    elif settings.versions == 1:
        apis = [numkit_api.NEW]
    else:
        apis = [numkit_api.random_api(rng) for _ in range(settings.versions)]
    return [(Interpreter(api), api) for api in apis]
