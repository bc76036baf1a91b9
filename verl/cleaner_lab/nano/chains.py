"""Tasks of several dependent parts: reasoning-gym tasks, where one number is the result of the part before.

1. Find the Least Common Multiple (LCM) of these numbers: 12, 18
2. How many 1 bits are there in the binary representation of the number r1?

The interpreter keeps no state, so each part has a call of its own. The answer is the result of the last part.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cleaner_lab.nano.solutions import solve
from cleaner_lab.nano.tasks import Task, stream

TRAINED, LONGER, UNTOUCHED = "trained", "longer", "untouched"
"""Kinds of chains: as in the training · one part longer · of functions that the training never calls."""
ONLY_HELD_OUT = (LONGER, UNTOUCHED)

FAMILIES: dict[str, dict[str, Any]] = {
    "gcd": {"min_value": 2, "max_value": 999, "min_numbers": 2, "max_numbers": 2},
    "lcm": {"min_value": 2, "max_value": 99},
    "chain_sum": {"max_terms": 4, "max_digits": 3},
    "products": {"min_digits": 1, "max_digits": 2},
    "count_bits": {"max_n": 9999},
    "count_primes": {"max_n": 999},
    "base_conversion": {"min_base": 2, "max_base": 10, "min_value": 11, "max_value": 999},
}
"""Whose results are whole numbers."""

_BETWEEN, _LAST = range(2, 10_000), range(2, 100_000)
"""Results of parts: short enough to copy, and no later part is decided before it runs, as the gcd with 1 is."""
_LARGEST_BASE, _FAR = 10, 1000
_NUMBER = re.compile(r"(?<![\w-])\d+")


@dataclass(frozen=True, slots=True)
class Chain:
    """kind: see TRAINED. parts: with all numbers filled in, as `solutions.solve` takes them."""

    kind: str
    question: str
    answer: str
    parts: tuple[Task, ...]


def make_chains(
    split: str,
    size: int,
    *,
    seed: int,
    calls: int,
    families: Sequence[str] = tuple(FAMILIES),
    kind: str = TRAINED,
    exclude: frozenset[str] = frozenset(),
) -> list[Chain]:
    """`size` different chains of `calls` parts; none with a question in `exclude`."""
    rng = random.Random(f"{split} {seed} {kind} {calls}")
    streams = {family: _entries(family, split, seed) for family in families}
    chains: list[Chain] = []
    seen = set(exclude)
    while len(chains) < size:
        chain = _draw(calls, streams, rng, kind)
        if chain is not None and chain.question not in seen:
            seen.add(chain.question)
            chains.append(chain)
    return chains


def _entries(family: str, split: str, seed: int) -> Iterator[Task]:
    tasks = stream(family, split, seed, FAMILIES[family])
    if family == "base_conversion":
        return (task for task in tasks if "base-10 number" in task.question and not task.question.endswith("base-10"))
    return tasks


def _draw(calls: int, streams: dict[str, Iterator[Task]], rng: random.Random, kind: str) -> Chain | None:
    """None where a result is not in the range that later parts take."""
    shown: list[str] = []
    parts: list[Task] = []
    for number in range(1, calls + 1):
        part = next(streams[rng.choice(list(streams))])
        question = filled = _plain(part.question)
        if parts:
            result = parts[-1].answer
            place = _place(part.family, question, int(result), rng)
            if place is None:
                return None
            question, filled = (
                f"{question[: place.start()]}{text}{question[place.end() :]}" for text in (f"r{number - 1}", result)
            )
        answer = _result(Task(part.family, filled, "", {}))
        if not answer.isdecimal() or int(answer) not in (_LAST if number == calls else _BETWEEN):
            return None
        shown.append(f"{number}. {question}")
        parts.append(Task(part.family, filled, answer, {}))
    return Chain(kind, " ".join(shown), answer, tuple(parts))


def _plain(question: str) -> str:
    """Without what is said about the final answer, or about bases that do not occur."""
    return question.partition(" Give only the ")[0].rpartition("Now, ")[2]


def _place(family: str, question: str, result: int, rng: random.Random) -> re.Match[str] | None:
    """The number that the result before takes the place of, so that the part still makes sense."""
    places = list(_NUMBER.finditer(question))
    match family:
        case "count_primes":
            # Of a range that is not empty, nor long to search.
            return places[1 if result >= int(places[0][0]) else 0] if result < _FAR else None
        case "base_conversion":
            # Number and base cannot be taken for each other.
            return places[0] if result > _LARGEST_BASE else None
        case "count_bits":
            return places[-1]
        case "products" | "chain_sum":
            return rng.choice(places)
    return rng.choice(places[:2])


def _result(part: Task) -> str:
    from cleaner_lab.nano.traces import run_code

    output, ok = run_code(solve(part))
    return output if ok else ""


def to_row(chain: Chain, *, split: str, index: int) -> dict[str, Any]:
    """A row of VeRL's data set; scored by `chain_reward`."""
    return {
        "data_source": f"chain/{chain.kind}",
        "prompt": [{"role": "user", "content": chain.question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": chain.answer},
        "extra_info": {"index": index, "split": split, "family": chain.kind, "calls": len(chain.parts)},
    }
