"""What the policy writes to the interpreter and reads from it. Pure functions.

output of the program            as far as the judge returns it
stderr:                          what the program itself printed there, its last STDERR_LENGTH characters
...
ValueError at line 3: message    how it failed; a group's members follow, a line each
"""

import ast
import json
import re
import signal
from typing import Any

from code_judge.wire import TIMEOUT_MARK, RunResult

MESSAGE_LENGTH = 500
"""Characters of an exception's message that the policy reads."""
STDERR_LENGTH = 500

_KILLED = re.compile(r"^killed by signal (\d+)\n?\Z", re.MULTILINE)
_MEMBER = re.compile(r"^\s*\| ((?!Traceback|Exception Group Traceback)\S.*)$", re.MULTILINE)
_CHAIN = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_HEADER = "Traceback (most recent call last):"
_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


def code_argument(parameters: Any) -> tuple[str | None, str]:
    """The program in a call's arguments; or None, and what is wrong with them."""
    problem = _check_arguments(parameters)
    if problem:
        return None, problem
    code = program_of(parameters["code"])
    # NUL and lone surrogates cannot be written to a source file as UTF-8.
    try:
        code.encode()
    except UnicodeEncodeError as error:
        return None, f"code is not valid Unicode: {error.reason}"
    return code, ""


def _check_arguments(parameters: Any) -> str | None:
    if not isinstance(parameters, dict):
        return f"arguments must be an object, got {json.dumps(parameters)[:80]}"
    if "code" not in parameters:
        return "argument 'code' is missing"
    if not isinstance(parameters["code"], str):
        return f"argument 'code' must be a string, got {type(parameters['code']).__name__}"
    unknown = sorted(set(parameters) - {"code"})
    return f"unknown argument {unknown[0]!r}" if unknown else None


def program_of(argument: str) -> str:
    """The program in a `code` argument: the argument itself, or what its fenced blocks hold where it is no Python.

    A string of the program may hold a fence.
    """
    if "```" not in argument or _is_python(argument):
        return argument
    blocks = _FENCED.findall(argument)
    return "\n".join(block.rstrip("\n") for block in blocks) if blocks else argument


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def response_text(result: RunResult) -> str:
    """What the policy reads of a program that ran."""
    parts = [result.stdout.removesuffix(TIMEOUT_MARK).removesuffix("\n")]
    stderr, killed = _without_signal(result.stderr)
    own, message = (stderr, "") if result.kind == "ok" else _split(stderr, result.kind)
    if own.strip():
        parts.append(f"stderr:\n{_tail(own.rstrip())}")
    if result.kind != "ok":
        where = f" at line {result.line}" if result.line is not None else ""
        what = killed or message[: MESSAGE_LENGTH + 3]
        parts.append(f"{result.kind}{where}" + (f": {what}" if what else ""))
    return "\n".join(part for part in parts if part)


def _tail(text: str) -> str:
    return text if len(text) <= STDERR_LENGTH else f"...{text[-STDERR_LENGTH:]}"


def _without_signal(stderr: str) -> tuple[str, str]:
    """(stderr without the judge's last line, that line with the signal's name)."""
    match = _KILLED.search(stderr)
    if match is None:
        return stderr, ""
    number = int(match[1])
    known = number in set(signal.Signals)
    return stderr[: match.start()], f"killed by signal {number}" + (
        f" ({signal.Signals(number).name})" if known else ""
    )


def _split(stderr: str, kind: str) -> tuple[str, str]:
    """(what the program printed, what the exception that ended it says).

    Python prints the traceback last: from the exception's name at the beginning of a line on, or at the edge of a
    group's frame.
    """
    found = list(re.finditer(rf"^(?:  \| )?(?:[\w.<>]+\.)?{re.escape(kind)}(?:: |$)", stderr, re.MULTILINE))
    if not found:
        # The judge keeps the end of stderr: the name was cut off with the beginning of a long message.
        return ("", f"...{stderr.strip()[-MESSAGE_LENGTH:]}") if kind[:1].isupper() and stderr else (stderr, "")
    match = found[0] if found[0][0].startswith("  | ") else found[-1]
    message = stderr[match.end() :].strip()
    if match[0].startswith("  | "):
        first, _, rest = message.partition("\n")
        message = "\n".join([first.strip(), *(f"- {member}" for member in _MEMBER.findall(rest))])
    return _before_traceback(stderr[: match.start()]), message


def _before_traceback(text: str) -> str:
    """The lines before the traceback with which `text` ends, and before those of the exceptions that led to it."""
    lines = text.splitlines()
    while True:
        while lines and (lines[-1].startswith((" ", "\t")) or lines[-1] == _HEADER):
            lines.pop()
        if len(lines) < 2 or lines[-1].strip() or lines[-2] not in _CHAIN:
            return "\n".join(lines)
        while lines and lines[-1] != _HEADER:
            lines.pop()
