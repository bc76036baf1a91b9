"""Which warm interpreter a program is forked from: the smallest one that has already imported what it imports.

Standard library only: the zygote imports it.
"""

import importlib.util
import re
import sys

BARE = "bare"
_IMPORTS = re.compile(r"^[^\S\n]*(?:import|from)[^\S\n]+([^\n#;]*)", re.MULTILINE)
_NUMPY = re.compile(r"\bnumpy\b")
_SYMPY = re.compile(r"\b(?:sympy|mpmath)\b")
_SCANNED = 1 << 16
"""Characters of the source that are looked at."""

# What most programs import. Each module more makes every fork dearer: shared libraries most of all.
_STANDARD = """
    bisect collections collections.abc copy dataclasses datetime decimal fractions functools heapq itertools json math
    operator os random re statistics string sys time typing encodings.utf_8 encodings.latin_1 encodings.ascii
"""
_NUMPY_WORK = """
import numpy, numpy.random, numpy.linalg
numpy.random.rand(2, 2) @ numpy.ones((2, 2)), numpy.linalg.inv(numpy.eye(2)), str(numpy.arange(3).mean())
"""
# What sympy finds out about a symbol it finds out once.
_SYMPY_WORK = """
import sympy
x, y = sympy.symbols("x y")
sympy.solve(x**2 - 3 * x + 1, x), sympy.solve([x + y - 2, x - y], [x, y]), sympy.solveset(x**2 - 4, x)
sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2), sympy.integrate(sympy.exp(-x) * x, x), sympy.factorint(84)
sympy.diff(sympy.log(x) * x, x), sympy.limit(sympy.sin(x) / x, x, 0), sympy.factor(x**2 - 1), sympy.expand((x + 1) ** 3)
sympy.series(sympy.cos(x), x, 0, 4), sympy.Matrix([[1, 2], [3, 4]]).eigenvals(), sympy.summation(x, (x, 1, y))
for symbol in sympy.symbols("a:z"):
    sympy.solve(symbol**2 - 5 * symbol + 4, symbol), sympy.factor(symbol**2 - 4), sympy.simplify(symbol / symbol**2)
str(sympy.Rational(1, 3) + sympy.sqrt(2)), sympy.N(sympy.pi, 20), sympy.Eq(x, y), sympy.latex(x**2)
"""
_WORK = {BARE: "", "numpy": _NUMPY_WORK, "sympy": _SYMPY_WORK}


def choose(source: str) -> str:
    """The flavour for a program, by the lines that begin with an import. A wrong guess costs time, nothing else."""
    found = BARE
    for match in _IMPORTS.finditer(source, 0, _SCANNED):
        if _SYMPY.search(match[1]):
            return _available("sympy")
        if _NUMPY.search(match[1]):
            found = "numpy"
    return _available(found)


def warm(flavour: str) -> None:
    """Import and use what the flavour's programs import and use. A package that is there and does not work leaves a
    cold zygote, not none: each program then meets the package's own error."""
    for module in _STANDARD.split():
        __import__(module)
    try:
        exec(_WORK[flavour], {"__name__": "warm"})
    except Exception as error:
        print(f"code-judge: {flavour} cannot be warmed up: {type(error).__name__}: {error}", file=sys.stderr)


def _available(flavour: str) -> str:
    return flavour if flavour == BARE or importlib.util.find_spec(flavour) is not None else BARE
