"""Compiles a script, and once for many runs: what travels from the process that compiles it to those that run it.

It is compiled in a process of its own with the walls and limits of a program, in which nothing of the script runs. The
service then seals the file, so that no run can change it for another one. A run loads it behind its own walls: what
is in it can do what the script can do, and no more. Standard library only: the template imports it.
"""

import ast
import marshal
from types import CodeType
from typing import Any

from code_judge.sandbox.box import FILENAME
from code_judge.sandbox.parcel import write_all

Parts = tuple[CodeType, CodeType | None]
"""The statements, and the last expression where its value is to be printed."""


def compile_script(source: bytes, echo: bool) -> Parts:
    if not echo:
        return compile(source, FILENAME, "exec", dont_inherit=True), None
    tree = ast.parse(source, FILENAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    statements = compile(tree, FILENAME, "exec", dont_inherit=True)
    if not isinstance(last, ast.Expr):
        return statements, None
    return statements, compile(ast.Expression(last.value), FILENAME, "eval", dont_inherit=True)


def store(parts: Parts, fd: int) -> int:
    """The exit status: 1 where the parts would not come back as they are.

    Elements of a constant set come back in another order than they were written in, and a loop over it would show that.
    """
    data = marshal.dumps(parts)
    if _orders(parts) != _orders(load(data)):
        return 1
    write_all(fd, data)
    return 0


def load(data: bytes) -> Parts:
    parts: Parts = marshal.loads(data)
    return parts


def _orders(constant: Any) -> list[list[str]]:
    """Of each constant set in it, the elements in their order."""
    if isinstance(constant, CodeType):
        constant = constant.co_consts
    if isinstance(constant, frozenset):
        return [[repr(element) for element in constant]]
    return [order for part in constant for order in _orders(part)] if isinstance(constant, tuple) else []
