"""Solutions by tool calls, with the mistakes models make.

A trace is a conversation: the question, a call, its real output, the boxed answer. A share of the first calls is wrong.
What fails visibly is followed by its real error and another call, usually the corrected one; what fails silently (off
by one, wrong operator) ends in a wrong answer.
"""

import contextlib
import io
import json
import random
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cleaner_lab.nano.solutions import OPENINGS, solve
from cleaner_lab.nano.tasks import Task
from verl_cleaner.formats import FORMATS

VISIBLE_SHARE, SILENT_SHARE = 0.42, 0.40
"""Of first calls. Visible: an exception or a malformed call."""
RETRY_VISIBLE_SHARE, RETRY_SILENT_SHARE = 0.30, 0.30
"""Of the calls after an error."""
MAX_CALLS = 3


@dataclass(frozen=True, slots=True)
class Mistake:
    """visible: the call fails, and the model is told so."""

    name: str
    visible: bool
    apply: Callable[[str, random.Random], str]


def _drop_parenthesis(code: str, _: random.Random) -> str:
    return code[: code.rindex(")")]


def _drop_import(code: str, _: random.Random) -> str:
    return code.split("\n", 1)[1] if code.startswith(("import", "from")) else code.replace("print(", "prin(", 1)


def _drop_colon(code: str, _: random.Random) -> str:
    return code.replace(":\n", "\n", 1) if ":\n" in code else code.replace("print(", "print((", 1)


def _misspell(code: str, _: random.Random) -> str:
    for right, wrong in (
        (".gcd", ".gdc"),
        (".lcm", ".lmc"),
        (".count", ".counts"),
        ("Fraction(", "Fractions("),
        ("t +=", "s +="),
    ):
        if right in code:
            return code.replace(right, wrong, 1)
    return code.replace("print(", "pint(", 1)


def _quote_number(code: str, _: random.Random) -> str:
    """A string where a number belongs, or the other way round."""
    if ".lower()" in code:
        return code.replace(".count(", ".count(0 + ", 1)
    if "range(" not in code and not re.search(r"\d", code.rpartition("print(")[2]):
        return code.replace("print(", "print(0 + ", 1)
    head, separator, tail = code.rpartition("print(" if "range(" not in code else "range(")
    return (
        head
        + separator
        + re.sub(r"\d+", lambda m: f"'{m[0]}' + 1" if "(" not in tail[:4] else f"'{m[0]}'", tail, count=1)
    )


def _off_by_one(code: str, _: random.Random) -> str:
    if " + 1)" in code:
        return code.replace(" + 1)", ")", 1)
    if "[::-1]" in code:
        return code.replace("[::-1]", "[-2::-1]", 1)
    if "hex(" in code:
        return code.replace("hex(", "hex(1 + ", 1)
    if code.startswith("n = int("):
        return code.replace(")", ") + 1", 1)
    if any(mark in code for mark in ("isleap", "strftime", ".join")):
        return re.sub(r"\d+", lambda number: str(int(number[0]) + 1), code, count=1)
    return code[: code.rindex(")")] + " + 1)"


def _wrong_operator(code: str, _: random.Random) -> str:
    if code.startswith("n = int("):
        # The number read in another base.
        return re.sub(r", (\d+)\)", lambda base: f", {int(base[1]) + 1})", code, count=1)
    for right, wrong in (
        (" - ", " + "),
        (" + ", " - "),
        (" * ", " + "),
        ("gcd(", "lcm("),
        ("lcm(", "gcd("),
        ('"1"', '"0"'),
        ("n % d", "n // d"),
        (" >> ", " << "),
        (" << ", " >> "),
        (".lower().", ".upper()."),
        ("%A", "%B"),
        ('"Yes" if ', '"Yes" if not '),
        ("[::-1]", "[::1]"),
    ):
        if right in code:
            return code.replace(right, wrong, 1)
    return re.sub(r"Fraction\((\d+), (\d+)\)", r"Fraction(\2, \1)", code)


MISTAKES = (
    Mistake("parenthesis", True, _drop_parenthesis),
    Mistake("import", True, _drop_import),
    Mistake("colon", True, _drop_colon),
    Mistake("name", True, _misspell),
    Mistake("type", True, _quote_number),
    Mistake("off_by_one", False, _off_by_one),
    Mistake("operator", False, _wrong_operator),
)
_REPAIR = "Fix the error."

REPHRASED_SHARE = 0.5
"""Of the traces that compute an expression: asked in other words, so that the policy looks at the expression."""
_PHRASES = (
    "What is {}?",
    "{} =",
    "Evaluate {}.",
    "Please work out {} and answer with a number.",
    "How much is {}?",
    "Find the value of {}.",
    "Tell me the result: {}",
    "Give the value of the expression {}.",
    "Determine {}!",
    "I need to know {}.",
    "Do this sum: {}.",
    "Answer with the exact value of {}.",
)


def call_text(code: str) -> str:
    call = {"name": "code_interpreter", "arguments": {"code": code}}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


@dataclass(frozen=True, slots=True)
class Trace:
    """messages: as a chat template takes them, tool calls as text. correct: ends in the right answer."""

    messages: list[dict[str, Any]]
    mistakes: tuple[str, ...]
    correct: bool


def make_trace(
    task: Task, rng: random.Random, *, visible: float = VISIBLE_SHARE, silent: float = SILENT_SHARE
) -> Trace:
    """visible, silent: shares of first calls."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": _ask(task, rng)}]
    made: list[str] = []
    shares = (visible, silent)
    reasoning = OPENINGS[task.family]
    for _ in range(MAX_CALLS):
        call, name = _draw_call(solve(task), shares, rng)
        made.append(name)
        response, ok = respond(call)
        messages.append({"role": "assistant", "content": f"{reasoning}\n{call}"})
        messages.append({"role": "tool", "content": response})
        if ok:
            break
        shares, reasoning = (RETRY_VISIBLE_SHARE, RETRY_SILENT_SHARE), _REPAIR
    messages.append({"role": "assistant", "content": f"\\boxed{{{response}}}" if ok else "I could not solve it."})
    return Trace(messages, tuple(made), ok and made[-1] == "none")


def _ask(task: Task, rng: random.Random) -> str:
    if task.family not in ("chain_sum", "products") or rng.random() >= REPHRASED_SHARE:
        return task.question
    return rng.choice(_PHRASES).format(solve(task).removeprefix("print(").removesuffix(")"))


def _draw_call(code: str, shares: tuple[float, float], rng: random.Random) -> tuple[str, str]:
    draw = rng.random()
    if draw >= sum(shares):
        return call_text(code), "none"
    visible = draw < shares[0]
    if visible and rng.random() < 0.2:
        return break_call(call_text(code), rng), "malformed"
    mistake = rng.choice([m for m in MISTAKES if m.visible == visible])
    return call_text(mistake.apply(code, rng)), mistake.name


def break_call(call: str, rng: random.Random) -> str:
    return call.replace('"}}', '"}', 1) if rng.random() < 0.5 else call.replace("\n</tool_call>", "")


def respond(call: str) -> tuple[str, bool]:
    """What the tool answers to the text of a call, and whether it succeeded."""
    code, problem = parse_call(call)
    return (problem, False) if code is None else run_code(code)


def parse_call(call: str) -> tuple[str | None, str]:
    """(code, what the tool answers where there is none)."""
    piece = call[call.index("<tool_call>") :]
    try:
        if not piece.endswith("</tool_call>"):
            raise ValueError(piece)
        return json.loads(piece.removeprefix("<tool_call>").removesuffix("</tool_call>"))["arguments"]["code"], ""
    except ValueError:
        return None, f"Invalid tool call: {FORMATS['hermes'].calls(piece)[0].problem}"


@lru_cache(1 << 16)
def run_code(code: str) -> tuple[str, bool]:
    """Run trusted code in this process; the text is what `code_tool.response_text` makes of the judge's result."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            exec(compile(code, "solution.py", "exec", dont_inherit=True), {"__name__": "__main__"})
    except Exception as error:
        start = error.__traceback__.tb_next if error.__traceback__ else None
        message = traceback.format_exception(type(error), error, start)[-1].strip().partition(": ")[2]
        line = error.lineno if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)[-1].lineno
        return f"{output.getvalue()}{type(error).__name__} at line {line}: {message}", False
    return output.getvalue().removesuffix("\n"), True
