"""`hermes` (Qwen2.5, Qwen3): `<tool_call>`, a JSON object with name and arguments, `</tool_call>`.

The end of a call is found by decoding its JSON, so that its code may hold `</tool_call>`. A tag in a sentence, in
quotes or in a program's strings begins no call: what follows it must look like the body of one.
"""

import re
from typing import ClassVar

from verl_cleaner.formats.base import Call, Schemas, ToolFormat, begins_line, skip_blanks
from verl_cleaner.formats.json_calls import Shape, decode, whole_problem

OPEN, CLOSE = "<tool_call>", "</tool_call>"

CHATML_ENDS = ("<|im_end|>", "<|endoftext|>")
CHATML_OPENERS = (
    re.compile(r"(?:\n?(?:<\|im_start\|>)?(?:user|tool)\n\s*)?<tool_response>[ \t]*\r?\n"),
    re.compile(r"<tool_response>(?=[^\n]{0,1000}</tool_response>)"),
)
CHATML_CLOSERS = (
    re.compile(r"</tool_response>\s*(?:<\|im_end\|>)?\s*(?:<\|im_start\|>)?assistant\n"),
    re.compile(r"^[ \t]*</tool_response>", re.MULTILINE),
)
CHATML_WEAK_CLOSERS = (re.compile(r"</tool_response>"),)

_BODY = re.compile(
    r"""
    [\[{]\s*(?: ["'{\[}] | [\w-]+\s*: )      # an object or a list, its keys quoted or not
    | ```                                    # in a code fence
    | < (?!/?tool_) [\w/]                    # the tags of another format
    | ["'](?:name|function|arguments)["']    # an object without its brace
    | [A-Za-z_][\w.]*\s*(?: \( | \n\s*[{<] ) # name(...), or a name and then its arguments
    """,
    re.VERBOSE,
)
PLACEHOLDER = re.compile(r"<function-name>|<args-json-object>|<function=example_function_name>")
"""As in the instructions of the chat templates, which models repeat."""
_BARE = re.compile(r'^[ \t]*(?=\{\s*"name"\s*:)', re.MULTILINE)
_EDGE = re.compile(rf"{CLOSE}|^[ \t]*{OPEN}", re.MULTILINE)
_SHAPE = Shape(("arguments",))


class Hermes(ToolFormat):
    name: ClassVar[str] = "hermes"
    end_tokens = CHATML_ENDS
    openers = CHATML_OPENERS
    closers = CHATML_CLOSERS
    weak_closers = CHATML_WEAK_CLOSERS

    def calls(self, turn: str, schemas: Schemas | None = None) -> list[Call]:
        end = self.end_of(turn)
        found: list[Call] = []
        position = 0
        while (start := turn.find(OPEN, position, end)) >= 0:
            found += _calls_without_tag(turn, position, start, end, schemas or {})
            call = _read(turn, start, end)
            if call is not None:
                found.append(call)
            position = start + len(OPEN) if call is None else call.end
        return found + _calls_without_tag(turn, position, end, end, schemas or {})


def _read(turn: str, start: int, end: int) -> Call | None:
    """The call whose tag is at `start`; None where the tag is prose."""
    body = skip_blanks(turn, start + len(OPEN))
    if turn[body : body + 1] == "{":
        decoded = decode(turn, body, end)
        after = skip_blanks(turn, decoded.end)
        if not decoded.problem and turn.startswith(CLOSE, after):
            name, arguments, problem = _SHAPE.read(turn[body : decoded.end], decoded.value)
            if not problem or meant_as_call(turn, start, end):
                return Call(start, after + len(CLOSE), name, arguments, problem)
            return None
        if not meant_as_call(turn, start, end):
            return None
        if not decoded.problem and (after >= end or turn.startswith(OPEN, after)):
            return Call(start, min(after, end), problem=f"{CLOSE} is missing")
        return _broken(turn, start, body, decoded.end, end)
    return _broken(turn, start, body, body, end) if meant_as_call(turn, start, end) else None


def meant_as_call(turn: str, start: int, end: int) -> bool:
    """Whether the tag at `start` begins a call, be it a broken one."""
    body = skip_blanks(turn, start + len(OPEN))
    if turn[max(0, start - 1) : start] in ("`", '"', "'") and start:
        return False
    if body >= end or turn.startswith(CLOSE, body):
        return begins_line(turn, start)
    if PLACEHOLDER.search(turn, body, min(end, body + 200)):
        return False
    on_next_line = turn.startswith(("{", "["), body) and "\n" in turn[start:body]
    return on_next_line or _BODY.match(turn, body, end) is not None


def _broken(turn: str, start: int, body: int, read: int, end: int) -> Call:
    """read: up to where its body could be read."""
    closed = -1
    for tag in _EDGE.finditer(turn, read, end):
        if tag[0] == CLOSE:
            closed = tag.start()
            break
        if meant_as_call(turn, tag.end() - len(OPEN), end):
            return Call(start, tag.end() - len(OPEN), problem=f"{CLOSE} is missing")
    stop = closed if closed >= 0 else end
    written = turn[body:stop].strip()
    if not written.startswith(("{", "[")):
        problem = f"{_SHAPE.expected}, got {written[:40]!r}"
    elif closed < 0 and not whole_problem(written):
        problem = f"{CLOSE} is missing"
    else:
        problem = whole_problem(written) or _SHAPE.read(written, decode(written, 0, len(written)).value)[2]
        problem += "" if closed >= 0 else f"; {CLOSE} is missing"
    return Call(start, stop + len(CLOSE) if closed >= 0 else end, problem=problem)


def _calls_without_tag(turn: str, start: int, stop: int, end: int, schemas: Schemas) -> list[Call]:
    """Objects of a call's shape in turn[start:stop] that lack `<tool_call>`: closed by `</tool_call>`, or of a known
    tool and with nothing but a code fence behind them."""
    found: list[Call] = []
    for bare in _BARE.finditer(turn, start, stop):
        if found and bare.end() < found[-1].end:
            continue
        decoded = decode(turn, bare.end(), stop)
        if decoded.problem or _SHAPE.read(turn[bare.end() : decoded.end], decoded.value)[2]:
            continue
        after = skip_blanks(turn, decoded.end)
        if turn.startswith(CLOSE, after):
            found.append(Call(bare.end(), after + len(CLOSE), problem=f"{OPEN} is missing"))
        elif decoded.value["name"] in schemas and turn[decoded.end : end].strip("` \r\n") == "":
            found.append(Call(bare.end(), decoded.end, problem=f"{OPEN} and {CLOSE} are missing"))
    return found
