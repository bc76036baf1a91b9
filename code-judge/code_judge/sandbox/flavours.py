"""Which warm interpreter a program is forked from: the one that has already imported what it imports.

Standard library only: the zygote imports it.
"""

import re
import sys
from collections.abc import Container, Iterable

BARE = "bare"
_IMPORTS = re.compile(r"^[^\S\n]*(?:import|from)[^\S\n]+([^\n#;]*)", re.MULTILINE)
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
KNOWN = {"sympy": r"\b(?:sympy|mpmath)\b", "numpy": r"\bnumpy\b"}
"""What programs import that are forked from it; the first that fits is taken."""


class Flavours:
    """extra: modules that are kept warm besides; they go before the others. there: packages of the interpreter."""

    def __init__(self, extra: Iterable[str], there: Container[str]) -> None:
        known = {module: rf"\b{package(module)}\b" for module in extra} | KNOWN
        self._known = [(name, re.compile(pattern)) for name, pattern in known.items() if package(name) in there]

    def choose(self, source: str) -> str:
        """For a program, by the lines that begin with an import. A wrong guess costs time, nothing else."""
        best = len(self._known)
        for match in _IMPORTS.finditer(source, 0, _SCANNED):
            for place in range(best):
                if self._known[place][1].search(match[1]):
                    best = place
                    break
            if best == 0:
                break
        return BARE if best == len(self._known) else self._known[best][0]


def package(module: str) -> str:
    return module.partition(".")[0]


def warm(flavour: str) -> None:
    """Import and use what the flavour's programs import and use. A package that is there and does not work leaves a
    cold zygote, not none: each program then meets the package's own error."""
    for module in _STANDARD.split():
        __import__(module)
    try:
        exec(_WORK.get(flavour, f"import {flavour}"), {"__name__": "warm"})
    except Exception as error:
        print(f"code-judge: {flavour} cannot be warmed up: {type(error).__name__}: {error}", file=sys.stderr)
