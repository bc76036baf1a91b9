"""Traces of chains: a turn a call, real responses, a boxed result at the end.

A share of the first calls of a part is wrong, as in `traces`. Under a version of numkit that the policy does not know
(`numkit_api`), a changed function is called in three ways:

habit      the old version's call fails, and the next one is mostly right
right      the new version's call, as a rule in 1 - habit of the first calls
context    the new version's call stands in the context, and nothing is learned from its tokens: the policy knows how
           to go on after it, but does not come to write it
"""

import contextlib
import io
import random
import signal
import sys
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from cleaner_lab.nano import numkit_api
from cleaner_lab.nano.chains import Chain
from cleaner_lab.nano.numkit_api import Api, Change
from cleaner_lab.nano.solutions import OPENINGS, solve
from cleaner_lab.nano.tasks import Task
from cleaner_lab.nano.traces import MISTAKES, Trace, break_call, call_text, parse_call

MAX_TRIES = 3
"""Calls for one part."""
_REPAIR = "Fix the error."


@dataclass(frozen=True, slots=True)
class Shares:
    """visible, silent: of first calls that no habit decides, those that fail and those that give a wrong result.
    retry_visible, retry_silent: the same of calls after an error. habit: of first calls of changed functions, those of
    the old version. context: of all calls of changed functions, those that stand in the context only."""

    visible: float
    silent: float
    retry_visible: float = 0.30
    retry_silent: float = 0.30
    habit: float = 0.0
    context: float = 0.0


class Interpreter:
    """Runs trusted programs in this process, beside one version of numkit; answers as the tool does.

    seconds: after which a program fails, in the main thread only; None: no limit.
    """

    def __init__(self, api: Api | None = None, *, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._modules = {} if api is None else {numkit_api.MODULE: numkit_api.module(api)}
        self.run = lru_cache(1 << 14)(self._run)

    def respond(self, call: str) -> tuple[str, bool]:
        """What the tool answers to the text of a call, and whether it succeeded."""
        code, problem = parse_call(call)
        return (problem, False) if code is None else self.run(code)

    def _run(self, code: str) -> tuple[str, bool]:
        output = io.StringIO()
        with _importable(self._modules), contextlib.redirect_stdout(output):
            try:
                with _limited(self._seconds):
                    exec(compile(code, "solution.py", "exec", dont_inherit=True), {"__name__": "__main__"})
            except Exception as error:
                return f"{output.getvalue()}{_describe(error)}", False
        return output.getvalue().removesuffix("\n"), True


@contextlib.contextmanager
def _importable(modules: dict[str, ModuleType]) -> Any:
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


@contextlib.contextmanager
def _limited(seconds: float | None) -> Any:
    if seconds is None:
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again: the program may catch the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _describe(error: Exception) -> str:
    """As `code_interpreter.response_text`: kind, the program's last line, and what Python itself prints."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        # Unlike the module traceback, it prints suggestions in every version of Python.
        sys.__excepthook__(type(error), error, None)
    message = printed.getvalue().strip().rpartition(f"{type(error).__name__}: ")[2]
    line = error.lineno if isinstance(error, SyntaxError) else _last_line(error)
    return f"{type(error).__name__} at line {line}: {message}"


def _last_line(error: Exception) -> int | None:
    frame, line = error.__traceback__, None
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "solution.py":
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


def make_trace(chain: Chain, rng: random.Random, interpreter: Interpreter, api: Api | None, shares: Shares) -> Trace:
    """api: the version of numkit that every call uses; None: plain Python."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": chain.question}]
    made: list[str] = []
    for part in chain.parts:
        response, right = _solve_part(part, rng, interpreter, shares, api, messages, made)
        if response is None:
            messages.append({"role": "assistant", "content": "I could not solve it."})
            return Trace(messages, tuple(made), False)
        if not right:
            # What follows would be of another number than the one that the parts are filled in with.
            break
    if right:
        messages.append({"role": "assistant", "content": f"\\boxed{{{response}}}"})
    return Trace(messages, tuple(made), right)


def _solve_part(
    part: Task, rng: random.Random, interpreter: Interpreter, shares: Shares, api: Api | None,
    messages: list[dict[str, Any]], made: list[str],
) -> tuple[str | None, bool]:  # fmt: skip
    """(response of the call that ran or None, whether it is right); adds messages and the names of mistakes."""
    wrong = (shares.visible, shares.silent)
    reasoning = OPENINGS[part.family]
    for attempt in range(MAX_TRIES):
        call, name, trained = _first_call(part, rng, shares, api) if attempt == 0 else (None, "", True)
        if call is None:
            call, name = _draw_call(part, wrong, rng, api, interpreter)
        response, ok = interpreter.respond(call)
        made.append(name)
        messages.append({"role": "assistant", "content": f"{reasoning}\n{call}", "trained": trained})
        messages.append({"role": "tool", "content": response})
        if ok:
            return response, response == part.answer
        wrong, reasoning = (shares.retry_visible, shares.retry_silent), _REPAIR
    return None, False


def _first_call(part: Task, rng: random.Random, shares: Shares, api: Api | None) -> tuple[str | None, str, bool]:
    """(call, name of the mistake, whether it is trained on) where the changed function decides it."""
    if api is None or api[part.family].change is Change.SAME:
        return None, "", True
    if rng.random() < shares.context:
        return call_text(numkit_api.call(part, api)), "none", False
    if rng.random() < shares.habit:
        return call_text(numkit_api.call(part, numkit_api.OLD)), "habit", True
    return None, "", True


def _draw_call(
    part: Task, shares: tuple[float, float], rng: random.Random, api: Api | None, interpreter: Interpreter
) -> tuple[str, str]:
    code = solve(part) if api is None else numkit_api.call(part, api)
    draw = rng.random()
    if draw >= sum(shares):
        return call_text(code), "none"
    visible = draw < shares[0]
    if visible and rng.random() < 0.2:
        return break_call(call_text(code), rng), "malformed"
    mistakes = [mistake for mistake in MISTAKES if mistake.visible == visible]
    for mistake in rng.sample(mistakes, len(mistakes)):
        wrong = mistake.apply(code, rng)
        if interpreter.run(wrong) != (part.answer, True) and interpreter.run(wrong)[1] is not visible:
            return call_text(wrong), mistake.name
    return call_text(code), "none"
