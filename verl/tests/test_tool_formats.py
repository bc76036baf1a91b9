"""Every tool format with its model's own tokenizer: split, broken calls, repair, rendering."""

import json
import logging
from dataclasses import dataclass

import pytest
from loop_harness import TOKENIZER, ScriptedServer, make_config, rollback, run_loop, tool_list
from real_tokenizers import real_tokenizer
from spellings import TABLES
from verl.experimental.agent_loop.tool_parser import ToolParser

from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop
from verl_cleaner.rollout.tool_parser import CallReader, warn_of_whole_turns

SCHEMAS = [tool.tool_schema for tool in tool_list()]


@dataclass(frozen=True)
class Case:
    """A format as a model of its kind writes it."""

    format: str
    tokenizer: str
    model_type: str
    reasoning: str
    call: str
    end: str = ""

    def turn(self, reasoning: str, *codes: str) -> str:
        calls = [self.call.replace("CODE", json.dumps(code)[1:-1] if "{" in self.call else code) for code in codes]
        return self.reasoning.replace("WHY", reasoning) + ("; " if self.format == "llama3-json" else "\n").join(calls)


JSON_CALL = '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "CODE"}}\n</tool_call>'
HARMONY = "<|start|>assistant<|channel|>commentary to=functions.code_interpreter <|constrain|>json<|message|>"
CASES = {
    "hermes": Case("hermes", "qwen3", "qwen3", "<think>\nWHY\n</think>\n\n", JSON_CALL),
    "qwen3_coder": Case(
        "qwen3_coder",
        "qwen3",
        "qwen3",
        "<think>\nWHY\n</think>\n\n",
        "<tool_call>\n<function=code_interpreter>\n<parameter=code>\nCODE\n</parameter>\n</function>\n</tool_call>",
    ),
    "gpt-oss": Case(
        "gpt-oss",
        "gptoss",
        "gpt_oss",
        "<|channel|>analysis<|message|>WHY<|end|>",
        HARMONY + '{"code": "CODE"}<|call|>',
    ),
    "llama3-json": Case(
        "llama3-json",
        "llama3_1",
        "llama",
        "WHY\n<|python_tag|>",
        '{"name": "code_interpreter", "parameters": {"code": "CODE"}}',
        end="<|eom_id|>",
    ),
}
TEMPLATE = """{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}\
{% if add_generation_prompt %}<|start|>assistant{% endif %}"""


def load(case):
    tokenizer = real_tokenizer(case.tokenizer)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(params=CASES, scope="module")
def case(request):
    case = CASES[request.param]
    load(case)
    return case


def encode(case, text):
    return load(case).encode(text, add_special_tokens=False)


@pytest.mark.parametrize("reasoning", ["because of <b>", "日本語 é {\n", ""])
def test_split(case, reasoning):
    """Exactly reversible, and the second part begins with the first token of the first call."""
    tokenizer, turn = load(case), case.turn(reasoning, "print('é')", "2")
    ids = encode(case, turn)
    boundary = CallReader(case.format, tokenizer, max_calls=8).boundary(ids)
    before, after = tokenizer.decode(ids[:boundary]), tokenizer.decode(ids[boundary:])
    assert before + after == turn
    expected = turn.index("<|python_tag|>" if case.format == "llama3-json" else case.call[:8])
    assert len(before) <= expected < len(before) + len(tokenizer.decode([ids[boundary]]))


@pytest.mark.parametrize("prefix", ["x", "{", "<", " ", "\n"])
def test_split_of_a_marker_merged_with_its_neighbours(prefix):
    """A vocabulary without the marker writes it as several tokens, which merge with what precedes them."""
    tokenizer = real_tokenizer("gptoss")
    ids = tokenizer.encode(f'why{prefix}<tool_call>\n{{"', add_special_tokens=False)
    boundary = CallReader("hermes", tokenizer, max_calls=8).boundary(ids)
    assert "<tool_call>" not in tokenizer.decode(ids[:boundary])
    assert "<tool_call>" in tokenizer.decode(ids[boundary:])
    assert "<tool_call>" not in tokenizer.decode(ids[boundary + 1 :])


async def read(case, text, *, repair):
    reader = CallReader(case.format, load(case), max_calls=3)
    reader.repair = repair
    ids = [*encode(case, text), load(case).eos_token_id]
    _, calls = await reader.extract_tool_calls(ids, SCHEMAS)
    return reader, calls


async def test_good_calls_are_verls(case):
    turn = case.turn("why", "print(1)", "x = {2}")
    stock = await ToolParser.get_tool_parser(case.format, load(case)).extract_tool_calls(encode(case, turn), SCHEMAS)
    for repair in (True, False):
        reader, calls = await read(case, turn, repair=repair)
        assert calls == stock[1]
        assert reader.dropped == 0
    assert [json.loads(call.arguments)["code"] for call in calls] == ["print(1)", "x = {2}"]


async def test_calls_beyond_the_limit(case):
    """Left out, as VeRL does; they are no fault."""
    turn = case.turn("why", "1", "2", "3", "4")
    for repair in (True, False):
        reader, calls = await read(case, turn, repair=repair)
        assert [json.loads(call.arguments)["code"] for call in calls] == ["1", "2", "3"]
        assert reader.dropped == 0


def config_for(case, **values):
    return make_config(
        *rollback(**values),
        f"actor_rollout_ref.rollout.multi_turn.format={case.format}",
        "data.max_prompt_length=1000",
    )


async def repair(case, script, **values):
    server = ScriptedServer(script, tokenizer=load(case))
    output, messages = await run_loop(ToolAgentLoop, server, config_for(case, **values), model_type=case.model_type)
    trained = [token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    return server, output, messages, load(case).decode(trained)


async def test_repair_in_the_loop(case):
    """The reasoning of the failed turn, the call of the retry; the error is gone."""
    failed = case.turn("first", "NameError x is not defined") + case.end
    retry = case.turn("second", "ok NameError x is 1") + case.end
    server, output, _, trained = await repair(case, [failed, retry, "Done."])
    assert trained.startswith(case.turn("first", "ok NameError x is 1"))
    assert "NameError: x is not defined" in server.context_texts()[1]
    assert "NameError: x is not defined" not in load(case).decode(output.response_ids)
    assert output.extra_fields[RECORD_FIELD]["retries"][0]["strategy"] == "tool_call_only"
    # The trained ids are sampled ids, in the order they were sampled.
    for token, mask, logprob in zip(output.response_ids, output.response_mask, output.response_logprobs, strict=True):
        assert not mask or server.sampled[logprob] == token


async def test_every_broken_spelling_is_repaired_in_the_loop(case):
    for row in (row for row in TABLES[case.format] if row.problems):
        failed = row.turn + ("" if row.turn.endswith("<|call|>") else case.end)
        server, output, _, _ = await repair(case, [failed, case.turn("second", "ok 1") + case.end, "Done."])
        context = server.context_texts()[1]
        # Harmony writes tool responses as JSON strings.
        assert row.problems[0] in context or json.dumps(row.problems[0])[1:-1] in context, row.what
        assert output.extra_fields[RECORD_FIELD]["recovered"] == 1, row.what


async def test_prose_ends_the_trajectory_without_a_retry(case):
    for row in (row for row in TABLES[case.format] if row.reading == "prose"):
        server, output, _, trained = await repair(case, [row.turn])
        assert (len(server.contexts), output.num_turns) == (1, 2), row.what
        assert output.extra_fields[RECORD_FIELD]["attempts"] == []
        assert trained.startswith(row.turn)


async def test_a_call_that_reads_differently_behind_the_old_reasoning_brings_its_own():
    """Without the marker, the call would stick to the last word."""
    case = CASES["llama3-json"]
    failed = "first" + case.turn("").lstrip("\n") + case.call.replace("CODE", "NameError x is not defined") + case.end
    retry = case.call.replace("CODE", "ok NameError x is 1") + case.end
    _, output, _, trained = await repair(case, [failed, retry, "Done."])
    row = output.extra_fields[RECORD_FIELD]["retries"][0]
    assert (row["strategy"], row["similarity"] > 0.5) == ("full_turn", True)
    assert trained.startswith(retry)
    assert output.extra_fields[RECORD_FIELD]["recovered"] == 1


async def test_rendering_a_repaired_qwen3_trajectory_gives_its_ids_again():
    case = CASES["hermes"]
    script = [case.turn("first", "NameError a"), case.turn("second", "ok NameError b"), case.turn("then", "ok 3")]
    _, output, messages, _ = await repair(case, [*script, "<think>\nso\n</think>\n\nDone."])
    tokenizer = load(case)
    for message in messages[1:]:
        message["content"] = message["content"].replace("<|im_end|>", "").rstrip()
    schemas = [schema.model_dump(exclude_unset=True, exclude_none=True) for schema in SCHEMAS]
    ids = tokenizer.apply_chat_template(messages, tools=schemas, tokenize=True, return_dict=False)
    assert ids == [*output.prompt_ids, *output.response_ids, *encode(case, "\n")]


async def test_a_format_that_cannot_be_split_is_repaired_as_a_whole_and_says_so_once(caplog):
    warn_of_whole_turns.cache_clear()
    call = "<seed:tool_call><function=code_interpreter><parameter=code>{}</parameter></function></seed:tool_call>"
    script = [f"First. {call.format('NameError x')}", f"Second. {call.format('ok NameError x')}", "Done."]
    config = make_config(*rollback(rollback_similarity_threshold=0), "actor_rollout_ref.rollout.multi_turn.format=seed")
    with caplog.at_level(logging.WARNING, logger="verl_cleaner.rollout.tool_parser"):
        off = make_config("actor_rollout_ref.rollout.multi_turn.format=seed")
        await run_loop(ToolAgentLoop, ScriptedServer(["Done."]), off)
        assert caplog.records == []
        for _ in range(2):
            output, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), config)
    assert [record.message for record in caplog.records if "cannot be split" in record.message] == [
        caplog.records[0].message
    ]
    assert TOKENIZER.decode(output.response_ids).startswith("Second.")
    assert output.extra_fields[RECORD_FIELD]["retries"][0]["strategy"] == "full_turn"
