"""The programs that the judge runs for one test each: the policy's code with what calls it.

    stdin/stdout   the code as it is; the judge compares its output
    function       the code, then a call of the function with the test's arguments; the result is printed as JSON and
                   the judge compares it, so that the expected value never is in reach of the code
    check          LeetCode and HumanEval: import prefix, code, the test's `check`, which prints a mark for each
                   assertion that holds, and at the end a word that only a program that came this far prints

Names that competitive programmers leave unimported are there beforehand, as in LiveCodeBench's own evaluation. The code
runs in the same process as the check: objects that claim to be equal to everything and an early exit are answered, but
a program that searches the interpreter for the word would find it.
"""

import ast
import inspect
import json
from collections.abc import Sequence
from typing import Any

_MODULES = """
string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json
builtins typing
"""

PREAMBLE = "\n".join(
    [
        # Each hides names of the ones before; builtins restores its own.
        *(f"from {module} import *" for module in _MODULES.split()),
        *(f"import {module}" for module in _MODULES.split()),
        "sys.setrecursionlimit(50000)",
        "sys.set_int_max_str_digits(0)",
    ]
)

# The code of a function task is a module: what stands under `if __name__ == "__main__"` is not its answer.
_AS_MODULE = """
__name__ = "solution"
sys.modules["solution"] = sys.modules["__main__"]
# What the code prints while it is called is no result.
sys.stdout = open("/dev/null", "w")
"""


def canonical(value: Any) -> str:
    """JSON in which values that Python takes for equal are equal texts; tuples are lists. Also part of the programs."""
    import json

    def plain(item: Any) -> Any:
        if isinstance(item, (list, tuple)):
            return [plain(part) for part in item]
        if isinstance(item, dict):
            return {str(key): plain(part) for key, part in item.items()}
        if isinstance(item, (bool, float)) and item == item and abs(item) < 1e300 and item == int(item):
            return int(item)
        # Scalars of NumPy know their Python value.
        return item.item() if hasattr(item, "item") else item

    return json.dumps(plain(value), sort_keys=True)


_CALL = """
def __cleaner_call(find, lines=sys.stdin.read(), out=sys.stdout, loads=json.loads):
    arguments = [loads(line) for line in lines.splitlines()]
    out.write(__cleaner_canonical(find()(*arguments)))
    out.flush()
"""

_CHECK = """
def __cleaner_checker(word=sys.stdin.readline().strip(), marks=sys.stdin.readline().strip(), out=sys.stdout):
    failures, place = [], 0

    def say(text):
        out.write(text)
        out.flush()

    def held():
        nonlocal place
        place += 1
        say(marks[place - 1])

    def failed(error):
        nonlocal place
        failures.append(error)
        place += 1
        say("-")

    def refuse_own_equality(value):
        owner = next(kind for kind in type(value).__mro__ if "__eq__" in vars(kind))
        if owner.__module__ == "solution":
            raise TypeError(f"a result of type {type(value).__name__}, which defines its own equality")
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            for part in value.values() if isinstance(value, dict) else value:
                refuse_own_equality(part)

    def wrapped(candidate):
        def call(*arguments, **named):
            value = candidate(*arguments, **named)
            refuse_own_equality(value)
            return value
        return call

    def passed():
        if failures:
            raise failures[0]
        # A check that returns early has passed as a whole.
        say(marks[place:] + word)

    return wrapped, held, failed, passed
__cleaner_wrapped, __cleaner_held, __cleaner_failed, __cleaner_passed = __cleaner_checker()
"""


def stdin_program(code: str) -> str:
    return _joined(PREAMBLE, code=code)


def function_program(code: str, name: str) -> str:
    """Reads the arguments from stdin, a line of JSON each."""
    canonical_source = inspect.getsource(canonical).replace("def canonical", "def __cleaner_canonical")
    find = f"getattr(globals()['Solution'](), {name!r}) if 'Solution' in globals() else globals()[{name!r}]"
    before = (PREAMBLE, canonical_source, _CALL, _forget(name, "Solution"), _AS_MODULE)
    return _joined(*before, code=code, after=f"__cleaner_call(lambda: {find})")


def check_program(code: str, *, prefix: str, test: str, entry_point: str) -> str:
    """Reads a word and marks from stdin, a line each; prints a mark for each assertion of `assertions.with_marks` that
    holds, and the word if the check passes. entry_point: an expression, e.g. `Solution().twoSum`."""
    name = entry_point.split("(")[0].split(".")[0].strip()
    after = f"{test}\ncheck(__cleaner_wrapped({entry_point}))\n__cleaner_passed()"
    return _joined(PREAMBLE, _CHECK, prefix, _forget(name), _AS_MODULE, code=code, after=after)


def arguments_text(arguments: list[Any]) -> str:
    return "\n".join(json.dumps(argument) for argument in arguments)


def syntax_problem(code: str) -> str | None:
    """Why Python would not read the code, None where it would."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _forget(*names: str) -> str:
    """The code has to define them itself: the preamble has functions of many names, a HumanEval prompt a stub."""
    return "\n".join(f"globals().pop({name!r}, None)" for name in names)


def _joined(*before: str, code: str, after: str = "") -> str:
    """One source. The code's docstring and then `from __future__` must come first."""
    tree = ast.parse(code)
    docstring = ast.get_docstring(tree, clean=False)
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    first = [] if docstring is None else [repr(docstring)]
    return "\n".join([*first, *map(ast.unparse, future), *before, _without(code, future), after, ""])


def _without(code: str, statements: Sequence[ast.stmt]) -> str:
    """`pass` in the place of the statements. Unparsing the whole program would fail on deep expressions."""
    # Columns are bytes, and lines end as bytes.splitlines has it, not at a form feed.
    lines = code.encode().splitlines(keepends=True)
    for node in reversed(statements):
        assert node.end_lineno is not None
        first, last = node.lineno - 1, node.end_lineno - 1
        lines[first : last + 1] = [lines[first][: node.col_offset] + b"pass" + lines[last][node.end_col_offset :]]
    return b"".join(lines).decode()
