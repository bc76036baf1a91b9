"""reasoning-gym families whose natural solution is a few lines of Python, as rows for VeRL.

Three disjoint splits (cold start, RL, held-out) with mixed difficulty. One family, `UNSEEN`, occurs only in held-out.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import reasoning_gym

TOOL_NAME = "code_interpreter"
TOOL = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "Run Python code and return its output.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    },
}

FAMILIES: dict[str, dict[str, Any]] = {
    "gcd": {"min_value": 2, "max_value": 999},
    "lcm": {"min_value": 2, "max_value": 99},
    "chain_sum": {"max_terms": 4, "max_digits": 3},
    "products": {"min_digits": 1, "max_digits": 3},
    "count_bits": {"max_n": 99999},
    "count_primes": {"max_n": 999},
    "fraction_simplification": {"max_value": 99, "max_factor": 9, "styles": ("plain",)},
}
"""The quickstart's."""
WIDE = FAMILIES | {
    "base_conversion": {"min_value": 1, "max_value": 9999},
    "calendar_arithmetic": {"tasks": ["weekday_of_date", "is_leap_year"]},
    "leg_counting": {"min_animals": 2, "max_animals": 3},
    "prime_factorization": {"min_value": 2, "max_value": 9999},
    "letter_counting": {"min_words": 2, "max_words": 4},
    "bitwise_arithmetic": {"difficulty": 1},
    "spell_backward": {},
}
"""More than that, for a larger policy: number bases, calendars, words."""
UNSEEN = "basic_arithmetic"
_ALL = WIDE | {UNSEEN: {"max_terms": 3, "max_digits": 3, "operators": ("+", "-", "*"), "allow_parentheses": False}}

# Far apart, so that the splits never draw the same generator seed.
_SPLIT_SEEDS = {"cold_start": 0, "train": 1, "val": 2}


@dataclass(frozen=True, slots=True)
class Task:
    """entry: what the family's verifier needs, as reasoning-gym made it."""

    family: str
    question: str
    answer: str
    entry: dict[str, Any]


def make_tasks(
    split: str, size: int, *, seed: int, exclude: frozenset[str] = frozenset(), wide: bool = False
) -> list[Task]:
    """`size` different tasks of the families in `WIDE` or `FAMILIES`, in equal shares, and of `UNSEEN` where they are
    held out; none with a question in `exclude`."""
    families = [*(WIDE if wide else FAMILIES), *([UNSEEN] if split == "val" else [])]
    streams = {family: stream(family, split, seed, _ALL[family]) for family in families}
    tasks: list[Task] = []
    seen = set(exclude)
    while len(tasks) < size:
        task = next(streams[families[len(tasks) % len(families)]])
        if task.question not in seen:
            seen.add(task.question)
            tasks.append(task)
    random.Random(f"{split} {seed}").shuffle(tasks)
    return tasks


def stream(family: str, split: str, seed: int, config: dict[str, Any]) -> Iterator[Task]:
    """Tasks of one family, for a split of its own."""
    size = 1 << 20
    generator_seed = (seed * len(_SPLIT_SEEDS) + _SPLIT_SEEDS[split]) * size
    dataset = reasoning_gym.create_dataset(family, size=size, seed=generator_seed, **config)
    for index in range(size):
        entry = dataset[index]
        question = " ".join(entry["question"].split())
        yield Task(family, question, str(entry["answer"]), {**entry, "question": question})


def to_row(task: Task, *, split: str, index: int) -> dict[str, Any]:
    """A row of VeRL's data set."""
    return {
        "data_source": f"reasoning_gym/{task.family}",
        "prompt": [{"role": "user", "content": task.question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": task.answer},
        "extra_info": {
            "index": index,
            "split": split,
            "family": task.family,
            "entry": json.dumps(task.entry, default=str),
        },
    }
