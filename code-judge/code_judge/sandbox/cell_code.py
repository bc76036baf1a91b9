"""Executes a cell's code in its session's variables, and tells how it failed.

Imported by the template only; standard library, little of it.
"""

import ast
import linecache
import os
import resource
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import Any

from code_judge.sandbox.status import exception_packet
from code_judge.sandbox.user import exit_code

CONTROL_FD = 3
"""See cell.py."""


def execute_and_report(source: bytes, name: str, namespace: dict[str, Any], echo: bool) -> int:
    try:
        _execute(source, name, namespace, echo)
    except SystemExit as end:
        return exit_code(end)
    except BaseException as error:
        _report(error, name)
        return 1
    return 0


def _execute(source: bytes, name: str, namespace: dict[str, Any], echo: bool) -> None:
    lines = source.decode("utf-8", "replace").splitlines(keepends=True)
    # Tracebacks and `inspect` find a cell's lines here; None: it has no file whose time could have changed.
    linecache.cache[name] = len(source), None, lines, name
    tree = ast.parse(source, name)
    last = tree.body.pop() if echo and tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec", dont_inherit=True), namespace)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), name, "eval", dont_inherit=True), namespace)
        if value is not None:
            print(repr(value))


def join_threads() -> int:
    """A cell ends when the threads that it started have ended, but for daemons."""
    try:
        me = threading.main_thread()
        while waiting := [thread for thread in threading.enumerate() if thread is not me and not thread.daemon]:
            for thread in waiting:
                thread.join()
    except BaseException as error:
        _report(error, "")
        return 1
    return 0


def _report(error: BaseException, name: str) -> None:
    """Tell how the cell failed: on the control socket as data, on stderr as the interpreter does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    lines = [line for frame, line in _walk(error.__traceback__) if frame.f_code.co_filename == name]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == name else lines[-1] if lines else None
    or_none(os.write, CONTROL_FD, exception_packet(type(error).__name__, line))
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename != name:
        start = start.tb_next
    if sys.excepthook is sys.__excepthook__:
        # The interpreter's own hook does not find the lines of what is no file.
        traceback.print_exception(type(error), error, start)
    else:
        sys.excepthook(type(error), error, start)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _walk(trace: TracebackType | None) -> "list[tuple[FrameType, int]]":
    found = []
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found


def or_none(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except OSError:
        return None
