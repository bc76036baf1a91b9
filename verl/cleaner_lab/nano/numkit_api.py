"""`numkit`, a small library of whole numbers, in its old version and in new ones, each with its own error messages.

    SAME      numkit.gcd(12, 18)            the old version, which the policy calls by habit
    RENAMED   numkit.gcd_of_all(12, 18)     the old name raises AttributeError, whose message names the new one
    SIMILAR   numkit.gcds(12, 18)           the old name is gone; Python itself suggests the new one
    UNIT      numkit.gcd(hex(12), hex(18))  a number raises ValueError, whose message shows the right unit
    LISTED    numkit.gcd([12, 18])          TypeError: Python counts the arguments, no more
    KEYWORD   numkit.gcd(values=[12, 18])   TypeError: the same
    SWAPPED   numkit.convert(7, 100)        ValueError: "invalid arguments"

The message tells all in the first three of the changes, half in the next two, nothing in the last.
"""

import random
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cleaner_lab.nano.tasks import Task

MODULE = "numkit"


class Change(StrEnum):
    SAME = "same"
    RENAMED = "renamed"
    SIMILAR = "similar"
    UNIT = "unit"
    LISTED = "listed"
    KEYWORD = "keyword"
    SWAPPED = "swapped"


@dataclass(frozen=True, slots=True)
class Function:
    """name: in the version it belongs to."""

    change: Change
    name: str


OLD_NAMES = {
    "gcd": "gcd",
    "lcm": "lcm",
    "chain_sum": "total",
    "products": "product",
    "count_bits": "bits",
    "count_primes": "primes",
    "base_conversion": "convert",
}
"""Function of each family of tasks."""

Api = Mapping[str, Function]
"""A version of numkit: a function for each family."""

OLD: Api = {family: Function(Change.SAME, name) for family, name in OLD_NAMES.items()}
NEW: Api = {
    **OLD,
    "gcd": Function(Change.RENAMED, "common_divisor"),
    "chain_sum": Function(Change.SIMILAR, "totals"),
    "products": Function(Change.KEYWORD, "product"),
    "count_bits": Function(Change.UNIT, "bits"),
    "base_conversion": Function(Change.SWAPPED, "convert"),
}
"""The version that the policy meets; `numkit.py` beside this file is its source."""
DRIFTED = tuple(family for family, function in NEW.items() if function.change is not Change.SAME)
UNTOUCHED = ("count_primes", "lcm")
"""What chains are made of that look for forgetting: the training never calls the first of them."""
TRAINED = (*DRIFTED, "lcm")

_CHANGES = {
    "count_bits": (Change.RENAMED, Change.SIMILAR, Change.UNIT),
    "base_conversion": (Change.RENAMED, Change.SIMILAR, Change.SWAPPED),
    "count_primes": (Change.RENAMED, Change.SIMILAR, Change.SWAPPED),
}
_OTHER_CHANGES = (Change.RENAMED, Change.SIMILAR, Change.LISTED, Change.KEYWORD)
_WORDS = (
    *("all", "by", "count", "each", "fast", "find", "get", "list", "many", "new"),
    *("of", "one", "part", "run", "set", "step", "sum", "take", "top", "use"),
)
_SUFFIXES = ("x", "z", "v", "2", "3")
_BODIES = {
    "gcd": "return math.gcd(*values)",
    "lcm": "return math.lcm(*values)",
    "chain_sum": "return sum(values)",
    "products": "return math.prod(values)",
    "count_bits": "return value.bit_count()",
    "count_primes": "numbers = range(max(low, 2), high + 1)\n"
    "    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in numbers)",
    "base_conversion": 'if base < 2:\n        raise ValueError("base must be at least 2")\n    '
    'digits = ""\n    while number > 0:\n        digits = str(number % base) + digits\n'
    "        number //= base\n    return digits",
}
_PARAMETERS = {"count_bits": "value", "count_primes": "low, high", "base_conversion": "number, base"}
_CHECKS = {"count_primes": "low > high", "base_conversion": "base > 10"}


def random_api(rng: random.Random, *, changed: float = 0.6) -> Api:
    """A version other than NEW, with names that NEW does not have; each function is changed with this probability."""
    return {family: _random_function(family, rng) if rng.random() < changed else OLD[family] for family in OLD}


def _random_function(family: str, rng: random.Random) -> Function:
    change = rng.choice(_CHANGES.get(family, _OTHER_CHANGES))
    name = OLD_NAMES[family]
    if change is Change.RENAMED:
        name = "_".join(rng.sample(_WORDS, 2))
    elif change is Change.SIMILAR:
        name += rng.choice(_SUFFIXES)
    return Function(change, name)


def arguments(task: Task) -> list[str]:
    """Of the old version's call, in its order."""
    if task.family == "chain_sum":
        expression = task.question.split(": ")[1].removesuffix("=")
        return [sign.replace("+", "") + number for sign, number in re.findall(r"([+-]?) ?(\d+)", expression)]
    if task.family == "base_conversion":
        number, base = re.findall(r"number (\d+) to (\S+)$", task.question)[0]
        return [number, "2" if base == "binary" else base.removeprefix("base-")]
    numbers = re.findall(r"\d+", task.question)
    return numbers[-1:] if task.family == "count_bits" else numbers


def call(task: Task, api: Api) -> str:
    """A program that prints the task's answer under this version."""
    function, values = api[task.family], arguments(task)
    match function.change:
        case Change.LISTED:
            inner = f"[{', '.join(values)}]"
        case Change.KEYWORD:
            inner = f"values=[{', '.join(values)}]"
        case Change.UNIT:
            inner = f"hex({values[0]})"
        case Change.SWAPPED:
            inner = ", ".join(reversed(values))
        case _:
            inner = ", ".join(values)
    return f"import {MODULE}\nprint({MODULE}.{function.name}({inner}))"


def source(api: Api) -> str:
    """The module's Python."""
    functions = [_definition(family, function) for family, function in api.items()]
    moved = {OLD_NAMES[family]: function.name for family, function in api.items() if function.change is Change.RENAMED}
    if moved:
        functions.append(_GETATTR.format(moved=moved))
    return "\n\n\n".join(['"""Whole numbers."""\n\nimport math\nimport sys', *functions]) + "\n"


_GETATTR = """\
def __getattr__(name):
    moved = {moved}
    if name in moved:
        raise AttributeError(f"{{__name__}}.{{name}} is now {{__name__}}.{{moved[name]}}")
    raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}", name=name, obj=sys.modules[__name__])"""


def _definition(family: str, function: Function) -> str:
    name = function.name
    parameters, lines = _PARAMETERS.get(family, "*values"), [_BODIES[family]]
    match function.change:
        case Change.LISTED:
            parameters = "values"
        case Change.KEYWORD:
            parameters = "*, values"
        case Change.SWAPPED:
            parameters = ", ".join(reversed(parameters.split(", ")))
            lines.insert(0, f'if {_CHECKS[family]}:\n        raise ValueError("invalid arguments")')
        case Change.UNIT:
            error = f'raise ValueError("{name}() takes hexadecimal text, such as hex(5)")'
            lines[:0] = [f"if not isinstance(value, str):\n        {error}", "value = int(value, 16)"]
    return f"def {name}({parameters}):\n    " + "\n    ".join(lines)


def module(api: Api) -> types.ModuleType:
    made = types.ModuleType(MODULE)
    exec(compile(source(api), f"{MODULE}.py", "exec"), made.__dict__)
    return made
