"""Conversations of other frameworks: a row of chat messages as turns, tool calls and tool responses.

Messages stand under `messages` (OpenAI), `conversations` or `conversation` (ShareGPT: `from` and `value`), or under
`prompt` and `completion` (or `response`), each a list of messages or text. A row may also be the list of messages.
Tool calls are read from `tool_calls`, from `function_call`, from content blocks (`tool_use`, `tool_result`), from items
of OpenAI's Responses (`function_call`, `function_call_output`), from messages of the role `function_call`, and from the
text, in the formats of `verl_cleaner.formats`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from verl_cleaner.report import conversation
from verl_cleaner.report.conversation import Block, Kind
from verl_cleaner.saar.similarity import ToolCall, arguments_text

LISTS = ("messages", "conversations", "conversation")
ANSWERS = ("completion", "response")
_ROLES = {
    "assistant": ("assistant", "gpt", "model", "bot", "ai"),
    "user": ("user", "human"),
    "system": ("system", "developer"),
    "tool": ("tool", "function", "observation", "tool_response", "function_response", "tool_result", "ipython",
             "environment"),
    "call": ("function_call", "tool_call"),
}  # fmt: skip
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_ITEMS = {"function_call": "call", "function_call_output": "tool", "reasoning": "assistant"}
"""Items of OpenAI's Responses that have a type and no role."""
_CONTENT = ("content", "value", "text", "output", "summary")


class BrokenRow(ValueError):
    """A row that cannot be read. The message begins with the key, e.g. `messages[2].role: …`."""


@dataclass(frozen=True, slots=True)
class Message:
    """key: where it stands in the row. fields: as read, without role and content."""

    key: str
    role: str
    content: Any
    fields: Mapping[str, Any]


def is_chat(row: Any) -> bool:
    """Whether a JSON value looks like a row that `read` reads. VeRL's dumps, with `input` and `output`, do not."""
    if isinstance(row, list):
        return bool(row) and all(isinstance(one, dict) and ("role" in one or "from" in one) for one in row)
    if not isinstance(row, dict):
        return False
    return any(name in row for name in LISTS) or ("prompt" in row and any(name in row for name in ANSWERS))


def read(row: Any) -> tuple[list[Block], list[Block], list[str]]:
    """(blocks before the first assistant turn, all other blocks, kinds of the calls that are marked as failed).

    Raises:
        BrokenRow: names the key, what was expected and what was got.
    """
    messages = list(_messages(row))
    if not any(message.role in ("assistant", "call") for message in messages):
        key = next((name for name in (*LISTS, "prompt") if isinstance(row, dict) and name in row), "row")
        raise BrokenRow(f"{key}: expected a message of the assistant, got {len(messages)} messages without")
    prompt: list[Block] = []
    blocks: list[Block] = []
    kinds: list[str] = []
    turn, open_turn = 0, False
    for message in messages:
        if message.role in ("assistant", "call"):
            # A call written as a message of its own belongs to the turn of the message before it.
            turn += not open_turn
            open_turn = True
            blocks += _assistant(message, turn)
        elif turn == 0:
            prompt += _told(message, None)
        else:
            open_turn = False
            told = _told(message, turn)
            blocks += told
            kinds += ["error"] * sum(_failed(message) for block in told[:1] if block.kind == Kind.RESPONSE)
    return prompt, blocks, kinds


def question(row: Any) -> str:
    """A text of all messages before the first assistant turn; it is equal for the rollouts of one prompt."""
    try:
        asked = []
        for message in _messages(row):
            if message.role in ("assistant", "call"):
                break
            asked.append([message.role, message.content])
        return json.dumps(asked, sort_keys=True)
    except BrokenRow:
        return ""


# ---- where messages stand ------------------------------------------------------------------------------------------


def _messages(row: Any) -> Iterator[Message]:
    if isinstance(row, list):
        yield from _list(row, "row")
        return
    if isinstance(row.get("system"), str) and row["system"].strip():
        yield Message("system", "system", row["system"], {})
    name = next((name for name in LISTS if name in row), None)
    if name is not None:
        yield from _list(row[name], name)
        return
    if "prompt" not in row:
        raise BrokenRow(f"{' or '.join(LISTS)}: missing, got the keys {', '.join(map(str, row)) or 'none'}")
    answer = next((name for name in ANSWERS if name in row), ANSWERS[0])
    yield from _side(row["prompt"], "prompt", "user")
    yield from _side(row.get(answer), answer, "assistant")


def _side(value: Any, key: str, role: str) -> Iterator[Message]:
    """The messages of a prompt or completion."""
    if isinstance(value, str):
        yield Message(key, role, value, {})
    else:
        yield from _list([value] if isinstance(value, dict) else value, key)


def _list(value: Any, key: str) -> Iterator[Message]:
    if not isinstance(value, list):
        raise BrokenRow(f"{key}: expected a list of messages, got {_got(value)}")
    for number, one in enumerate(value):
        yield _message(one, f"{key}[{number}]")


def _message(one: Any, key: str) -> Message:
    if not isinstance(one, dict):
        raise BrokenRow(f"{key}: expected a message, got {_got(one)}")
    item = one.get("type")
    if "role" not in one and "from" not in one and item in _ITEMS:
        role = _ITEMS[item]
    else:
        name = "from" if "from" in one and "role" not in one else "role"
        if name not in one:
            raise BrokenRow(f"{key}.role: missing, got the keys {', '.join(map(str, one)) or 'none'}")
        role = _ROLE_OF.get(str(one[name]).lower(), "")
        if not role:
            raise BrokenRow(f"{key}.{name}: expected one of {', '.join(_ROLE_OF)}, got {_got(one[name])}")
    content = next((one[name] for name in _CONTENT if one.get(name) is not None), None)
    if role == "assistant" and item == "reasoning":
        content = [{"type": "thinking", "thinking": _text(content, f"{key}.summary")}]
    return Message(key, role, content, one)


# ---- what a message says -------------------------------------------------------------------------------------------


def _assistant(message: Message, turn: int) -> Iterator[Block]:
    fields, key = message.fields, message.key
    if message.role == "call":
        yield _call(fields if "arguments" in fields else message.content, f"{key}.value", turn)
        return
    thought = next((fields[n] for n in ("reasoning_content", "reasoning", "thinking") if fields.get(n)), None)
    if isinstance(thought, str):
        yield Block(Kind.THINKING, thought, turn)
    parts = message.content if isinstance(message.content, list) else [message.content]
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_use":
            yield _call({"name": part.get("name"), "arguments": part.get("input")}, f"{key}.content[{number}]", turn)
        elif kind in ("thinking", "reasoning"):
            words = _text(part.get("thinking") or part.get("text"), f"{key}.content[{number}]")
            yield Block(Kind.THINKING, words, turn)
        else:
            yield from conversation.of_assistant(_text(part, f"{key}.content"), turn)
    calls = fields.get("tool_calls") or []
    if not isinstance(calls, list):
        raise BrokenRow(f"{key}.tool_calls: expected a list, got {_got(calls)}")
    for number, call in enumerate(calls):
        yield _call(call, f"{key}.tool_calls[{number}]", turn)
    if fields.get("function_call"):
        yield _call(fields["function_call"], f"{key}.function_call", turn)


def _call(value: Any, key: str, turn: int) -> Block:
    """Arguments are an object or JSON text. A call whose text is no JSON object is shown as malformed."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return Block(Kind.CALL, value, turn)
    if isinstance(value, dict) and "function" in value:
        value, key = value["function"], f"{key}.function"
    if not isinstance(value, dict):
        raise BrokenRow(f"{key}: expected an object with name and arguments, got {_got(value)}")
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
    if not isinstance(name, str):
        raise BrokenRow(f"{key}.name: expected text, got {_got(name)}")
    if arguments is not None and not isinstance(arguments, (dict, str)):
        raise BrokenRow(f"{key}.arguments: expected an object or JSON text, got {_got(arguments)}")
    written = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    try:
        parsed = json.loads(written) if written.strip() else {}
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        return Block(Kind.CALL, f"{name}: {written}", turn)
    return Block(Kind.CALL, f"{name}: {written}", turn, name, arguments_text([ToolCall(name, parsed, written)]))


def _told(message: Message, turn: int | None) -> list[Block]:
    """Blocks that the policy reads: tool responses, and messages of user and system."""
    parts = message.content if isinstance(message.content, list) else [message.content]
    blocks = []
    for number, part in enumerate(parts):
        result = isinstance(part, dict) and part.get("type") == "tool_result"
        text = _text(part.get("content") if result else part, f"{message.key}.content[{number}]")
        response = message.role == "tool" or result or text.lstrip().startswith("<tool_response>")
        if response and turn is not None:
            blocks += conversation.responses(text, turn) or [Block(Kind.RESPONSE, text, turn)]
        elif text.strip():
            blocks.append(Block(Kind.SYSTEM if message.role == "system" else Kind.USER, text, turn))
    return blocks


def _failed(message: Message) -> bool:
    parts = message.content if isinstance(message.content, list) else []
    marks = [message.fields, *(part for part in parts if isinstance(part, dict))]
    return any(mark.get("is_error") is True or mark.get("status") == "error" for mark in marks)


def _text(value: Any, key: str) -> str:
    """The text of a string, a block, a list of these, or None. Of other blocks, such as pictures, the type."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_text(part, f"{key}[{number}]") for number, part in enumerate(value))
    if isinstance(value, dict):
        text = value.get("text", value.get("content"))
        return text if isinstance(text, str) else f"[{value.get('type', 'object')}]"
    raise BrokenRow(f"{key}: expected text or a list of content blocks, got {_got(value)}")


def _got(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
