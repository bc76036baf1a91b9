"""Where a tool call begins and ends in each format.

VeRL's parsers say which calls run; a format says where the policy meant to call something, so that the calls VeRL drops
can be counted and repaired, and a turn can be split at its first call. To add a format, add a line to `FORMATS`; one
without a line is repaired by whole turns, and its broken calls stay unseen.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

_SPACE = "[\\s\u0120\u010a\u2581]*"
"""White space, also as byte-level and SentencePiece vocabularies write it."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """start: the beginning of the first call, in the tokens as the vocabulary writes them.
    pieces: the intended calls of a decoded turn, each as written.
    problem: what is wrong with a piece that VeRL does not read as a call.
    stops: tokens beside the tokenizer's end token that end a turn with a call.
    """

    start: re.Pattern[str]
    pieces: Callable[[str], list[str]]
    problem: Callable[[str], str]
    stops: tuple[str, ...] = ()


def _matches(pattern: str) -> Callable[[str], list[str]]:
    compiled = re.compile(pattern, re.DOTALL)
    return lambda text: [match[0] for match in compiled.finditer(text)]


def _hermes_problem(piece: str) -> str:
    if not piece.endswith("</tool_call>"):
        return "</tool_call> is missing"
    return _json_problem(piece.removeprefix("<tool_call>").removesuffix("</tool_call>"), "arguments")


def _json_problem(text: str, arguments: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:  # also integers and nesting beyond Python's limits
        return f"not valid JSON: {error}"
    return f'expected {{"name": ..., "{arguments}": {{...}}}}'


def _qwen3_coder_problem(piece: str) -> str:
    return "expected <function=NAME><parameter=NAME>VALUE</parameter></function> in <tool_call>"


def _gpt_oss_problem(piece: str) -> str:
    if "<|call|>" not in piece:
        return "<|call|> is missing"
    return "expected to=functions.NAME <|constrain|>json<|message|>{...}<|call|>"


_LLAMA_START = re.compile(r'<\|python_tag\|>|(?<!\S)(?=\{\s*"name")')
_LLAMA_END = re.compile(r"(\s*<\|[a-z_]+\|>)*\s*\Z")


def llama3_pieces(text: str) -> list[str]:
    """JSON objects after the start, apart by `;` or white space; what cannot be read is one broken piece."""
    start = _LLAMA_START.search(text)
    rest = _LLAMA_END.sub("", text[start.end() :]) if start else ""
    pieces: list[str] = []
    while rest := rest.lstrip("; \t\r\n"):
        try:
            _, end = json.JSONDecoder().raw_decode(rest)
        except (ValueError, RecursionError):
            end = len(rest)
        pieces.append(rest[:end])
        rest = rest[end:]
    return pieces


def llama3_content(text: str) -> str:
    """What precedes the calls."""
    start = _LLAMA_START.search(text)
    return text[: start.start()] if start else _LLAMA_END.sub("", text)


_TOOL_CALL = re.compile("<tool_call>")
_tool_call_pieces = _matches(r"<tool_call>.*?(?:</tool_call>|\Z)")

FORMATS = {
    "hermes": ToolFormat(_TOOL_CALL, _tool_call_pieces, _hermes_problem),
    "qwen3_coder": ToolFormat(_TOOL_CALL, _tool_call_pieces, _qwen3_coder_problem),
    "gpt-oss": ToolFormat(
        re.compile(rf"<\|start\|>assistant<\|channel\|>[^<]*?{_SPACE}to=functions\."),
        _matches(r"<\|start\|>assistant<\|channel\|>[^<]* to=functions\..*?(?:<\|call\|>|(?=<\|start\|>)|\Z)"),
        _gpt_oss_problem,
        stops=("<|call|>",),
    ),
    "llama3-json": ToolFormat(
        re.compile(rf'<\|python_tag\|>|(?<![^\s\u0120\u010a\u2581])\{{{_SPACE}"name"'),
        llama3_pieces,
        lambda piece: _json_problem(piece, "parameters"),
        stops=("<|eom_id|>",),
    ),
}
"""Per `multi_turn.format`."""
