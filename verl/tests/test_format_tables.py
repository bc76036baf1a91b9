"""Every spelling of the tables, read as the table says: by the format, by the loop's reader, and by VeRL's parser."""

import json
import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_harness import tool_list
from real_tokenizers import real_tokenizer
from spellings import PAGE, RENDER, TABLES, TAGS, TOKENIZERS, TOOL, Stock, markdown
from verl.experimental.agent_loop.tool_parser import ToolParser

from verl_cleaner.formats import FORMATS
from verl_cleaner.formats.own_turns import of_text
from verl_cleaner.rollout.tool_parser import CallReader, MalformedCall

SCHEMAS = {TOOL: {"code": "string"}}
TOOLS = [tool.tool_schema for tool in tool_list()]
ROWS = [pytest.param(name, row, id=f"{name}: {row.what}") for name, table in TABLES.items() for row in table]


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_the_formats_reading(name, row):
    calls = FORMATS[name].calls(row.turn, SCHEMAS)
    good = [call for call in calls if not call.problem]
    assert [json.loads(call.arguments)["code"] for call in good] == list(row.codes)
    assert {call.name for call in good} <= {row.name}
    problems = [call.problem for call in calls if call.problem]
    assert len(problems) == len(row.problems), problems
    assert all(part in problem for part, problem in zip(row.problems, problems, strict=True)), problems
    assert all(0 <= call.start < call.end <= len(row.turn) for call in calls)


@pytest.mark.parametrize(("name", "row"), ROWS)
async def test_the_loops_reading(name, row):
    """With the model's own tokens and end token: the same calls, and a turn that is split at the first."""
    tokenizer = real_tokenizer(TOKENIZERS[name])
    ids = [*tokenizer.encode(row.turn, add_special_tokens=False), tokenizer.eos_token_id]
    for repair in (True, False):
        reader = CallReader(name, tokenizer, max_calls=8)
        reader.repair = repair
        _, calls = await reader.extract_tool_calls(ids, TOOLS)
        good = [call for call in calls if not isinstance(call, MalformedCall)]
        assert [json.loads(call.arguments)["code"] for call in good] == list(row.codes)
        assert len(calls) - len(good) == (len(row.problems) if repair else 0)
        assert reader.dropped == (0 if repair else len(row.problems))
    boundary, expected = reader.boundary(ids), FORMATS[name].calls(row.turn, SCHEMAS)
    if not expected:
        assert boundary is None
        return
    before, through = (tokenizer.decode(ids[:end]) for end in (boundary, boundary + 1))
    assert len(before) <= expected[0].start < len(through)
    assert through.startswith(row.turn[: expected[0].start + 1])


@pytest.mark.parametrize(("name", "row"), ROWS)
async def test_verls_reading_is_what_the_table_says(name, row):
    if row.stock is Stock.NONE:
        return
    tokenizer = real_tokenizer(TOKENIZERS[name])
    ids = tokenizer.encode(row.turn, add_special_tokens=False)
    _, calls = await ToolParser.get_tool_parser(name, tokenizer).extract_tool_calls(ids, TOOLS)
    try:
        read = [json.loads(call.arguments).get("code") for call in calls]
        error = any(set(json.loads(call.arguments)) != {"code"} for call in calls)
    except (ValueError, AttributeError, TypeError):
        read, error = [], True
    found = {
        Stock.SAME: read == list(row.codes),
        Stock.DROPS: set(read) <= set(row.codes) if row.problems else not read,
        Stock.CUTS: bool(read) and read != list(row.codes),
        Stock.LENIENT: bool(read) and not row.codes,
        Stock.ERROR: error,
    }
    assert found[row.stock], (read, error)


def test_the_documentation_shows_the_tables():
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## `([\w-]+)`$", text, re.MULTILINE) == list(TABLES)
    for name in TABLES:
        section = text.split(f"\n## `{name}`\n")[1].split("\n## ")[0]
        assert section[section.index("| spelling ") :].strip() == markdown(name), "python verl/tests/spellings.py"


def test_the_tables_are_as_large_as_promised_and_of_all_kinds():
    assert list(TABLES) == list(FORMATS)
    for table in TABLES.values():
        assert len(table) >= 25
        assert len({row.what for row in table}) == len({row.turn for row in table}) == len(table)
        assert all(sum(row.reading == kind for row in table) >= 5 for kind in ("runs", "broken", "prose"))


PIECES = st.one_of(st.sampled_from(TAGS), st.sampled_from([*"\n\"'\\{};", "print(1)"]), st.text(max_size=3))
CODES = st.lists(PIECES, max_size=8).map("".join)
TURNS = st.lists(st.one_of(CODES, *(CODES.map(render) for render in RENDER.values())), max_size=4).map("\n".join)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(FORMATS)), CODES)
def test_any_code_runs_unchanged_or_not_at_all(name, code):
    turn = RENDER[name](code)
    read = [json.loads(call.arguments)["code"] for call in FORMATS[name].calls(turn, SCHEMAS) if not call.problem]
    if read != [code]:
        # Nothing ran, or the text is, to the letter, that of several calls.
        assert not read or "\n".join(map(RENDER[name], read)) == turn
        assert read or any(call.problem for call in FORMATS[name].calls(turn, SCHEMAS))
    if name != "qwen3_coder":
        assert read == [code]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(FORMATS)), TURNS)
def test_calls_are_in_order_and_what_is_left_holds_none(name, turn):
    for schemas in (SCHEMAS, None):
        calls = FORMATS[name].calls(turn, schemas)
        assert all(0 <= call.start < call.end <= len(turn) for call in calls)
        assert all(first.end <= second.start for first, second in pairwise(calls))
        assert all(bool(call.problem) != bool(call.arguments) for call in calls)
        assert all(isinstance(json.loads(call.arguments), dict) for call in calls if not call.problem)
    assert len(FORMATS[name].words(turn)) <= len(turn)


HOSTILE = [
    "<tool_call>", "<tool_call>{", '\n<tool_call>{"', "\n<tool_call>\n<function=f><parameter=a>",
    "</parameter></function>", "</parameter></function></tool_call>", "<tool_call><parameter=",
    "<tool_call>\n</tool_call>", "\n<function=f></function>", '{"name": ', '\n{"name": "f", "parameters": {',
    "<|python_tag|>", "<|python_tag|>{", "<|channel|>", "<|start|>assistant<|channel|>commentary to=functions.f",
    "<|message|>", "<|start|>assistant<|message|>{", "[", "\n", " ", "<tool_response>", "\nuser\n<tool_response>\n",
    "</tool_response>\nassistant\n", "user\n\n\n", "} ", "functions.", "assistant", "to=functions.f commentary ",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("name", FORMATS)
def test_a_long_hostile_turn_is_read_in_time(name, unit):
    turn = unit * (100_000 // len(unit))
    start = time.process_time()
    FORMATS[name].calls(turn, SCHEMAS)
    of_text(turn, FORMATS[name])
    assert time.process_time() - start < 2
