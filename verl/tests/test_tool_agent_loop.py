"""SAAR in VeRL's loop, against a scripted server."""

import itertools
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_harness import (
    EOS,
    PROMPT,
    TOKENIZER,
    ScriptedServer,
    call,
    configured,
    encode,
    make_config,
    make_loop,
    rollback,
    run_loop,
    tool_list,
)
from verl.experimental.agent_loop import tool_agent_loop as verl_loop

from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop
from verl_cleaner.saar.outcome import InfrastructureError

ON = make_config(*rollback())
OFF = make_config()
FAIL, FIXED, OTHER = call("NameError x is not defined"), call("ok NameError x is 1"), call("ok 42")
BROKEN = "<tool_call>\n{]\n</tool_call>"
ANSWER = "The answer is 42."


def record(output):
    return output.extra_fields[RECORD_FIELD]


def response_text(output):
    return TOKENIZER.decode(output.response_ids)


def trained_text(output):
    return TOKENIZER.decode([t for t, m in zip(output.response_ids, output.response_mask, strict=True) if m])


def check_tokens(output, server):
    """Every trained id is a sampled id with the log-prob it was sampled with; the rest carries none."""
    assert len(output.response_ids) == len(output.response_mask)
    if output.response_logprobs is None:
        return
    assert len(output.response_logprobs) == len(output.response_mask)
    for token, mask, logprob in zip(output.response_ids, output.response_mask, output.response_logprobs, strict=True):
        assert (server.sampled[logprob] == token) if mask else (logprob == 0.0)


def rendered(messages):
    schemas = [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tool_list()]
    return TOKENIZER.apply_chat_template(messages, tools=schemas, tokenize=True, return_dict=False)


async def test_similar_retry_keeps_the_reasoning():
    server = ScriptedServer([f"First idea. {FAIL}", f"Oh, x is missing. {FIXED}", ANSWER])
    output, messages = await run_loop(ToolAgentLoop, server, ON)
    check_tokens(output, server)
    assert trained_text(output) == f"First idea. {FIXED}<|im_end|>{ANSWER}<|im_end|>"
    assert "NameError: x is not defined" not in response_text(output)
    assert "NameError: x is not defined" in server.context_texts()[1]
    assert "NameError: x is not defined" not in server.context_texts()[2]
    r = record(output)
    assert (r["recovered"], r["failed"]) == (1, 0)
    assert [a["kinds"] for a in r["attempts"]] == [("NameError",), (None,)]
    retry = r["retries"][0]
    assert retry["strategy"] == "tool_call_only"
    assert (retry["failed_call"], retry["new_call"]) == ("NameError x is not defined", "ok NameError x is 1")
    assert retry["error"] == "NameError: x is not defined"
    start, end = retry["span"]
    assert TOKENIZER.decode(output.response_ids[start:end]) == f"{FIXED}<|im_end|>"
    assert output.num_turns == 4  # user, assistant, tool, assistant
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]


async def test_different_retry_takes_the_whole_turn():
    server = ScriptedServer([f"First idea. {FAIL}", f"Another idea. {OTHER}", ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    check_tokens(output, server)
    assert trained_text(output) == f"Another idea. {OTHER}<|im_end|>{ANSWER}<|im_end|>"
    assert record(output)["retries"][0]["strategy"] == "full_turn"


@pytest.mark.parametrize(("threshold", "kept"), [(0, "First idea."), (1, "Another idea.")])
async def test_threshold(threshold, kept):
    server = ScriptedServer([f"First idea. {FAIL}", f"Another idea. {FIXED}", ANSWER])
    config = make_config(*rollback(rollback_similarity_threshold=threshold))
    output, _ = await run_loop(ToolAgentLoop, server, config)
    assert trained_text(output).startswith(kept)


async def test_similarity_on_the_published_wrapper():
    """The JSON wrapper makes unrelated short calls similar."""
    script = [f"First idea. {FAIL}", f"Another idea. {OTHER}", ANSWER]
    config = make_config(*rollback(rollback_similarity_on="call"))
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), config)
    assert record(output)["retries"][0]["similarity"] > 0.5


async def test_retry_without_a_call_keeps_everything():
    server = ScriptedServer([f"Try. {FAIL}", "I cannot.", "never asked for"])
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    check_tokens(output, server)
    assert trained_text(output) == f"Try. {FAIL}<|im_end|>I cannot.<|im_end|>"
    assert "NameError: x is not defined" in response_text(output)
    r = record(output)
    assert (r["recovered"], r["failed"]) == (0, 1)
    assert r["retries"][0]["result"] == "no_call"
    assert output.num_turns == 4


async def test_retries_used_up():
    """The last failing turn and its error stay, with a note; rollback is off afterwards."""
    turns = [f"Try {i}. {call(f'NameError attempt {i}')}" for i in range(4)]
    server = ScriptedServer([*turns, f"Now. {FAIL}", ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    check_tokens(output, server)
    assert (
        trained_text(output) == f"Try 0. {call('NameError attempt 3')}<|im_end|>Now. {FAIL}<|im_end|>{ANSWER}<|im_end|>"
    )
    assert response_text(output).count("failed 4 times") == 1
    assert "times" not in "".join(server.context_texts()[:4])
    r = record(output)
    assert (r["recovered"], r["failed"], len(r["retries"])) == (0, 1, 3)
    assert [a["kinds"] for a in r["attempts"]] == [("NameError",)] * 5


@pytest.mark.parametrize("retries", [0, 1])
async def test_no_note_below_two_retries(retries):
    server = ScriptedServer([f"Try. {FAIL}"] * (retries + 1) + [ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(max_tool_retries=retries)))
    assert "times" not in response_text(output)
    assert len(record(output)["retries"]) == retries


async def test_only_the_listed_kinds_trigger():
    config = make_config(*rollback(rollback_on_errors="[timeout]"))
    server = ScriptedServer(
        [f"Try. {FAIL}", f"Again. {call('timeout slow')}", f"Fast. {call('ok timeout fast')}", ANSWER]
    )
    output, _ = await run_loop(ToolAgentLoop, server, config)
    assert [retry["kinds"] for retry in record(output)["retries"]] == [("timeout",)]
    assert "NameError: x" in response_text(output)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "1"}}', "</tool_call> is missing"),
        ('<tool_call>\n{"name": "code_interpreter", "arguments": {"code": \n</tool_call>', "not valid JSON"),
        ("<tool_call>\n[1]\n</tool_call>", "expected"),
        (call("ok", name="python"), "Unknown function 'python'"),
    ],
)
async def test_broken_calls_are_repaired(broken, reason):
    server = ScriptedServer([f"Try. {broken}", f"Fix. {OTHER}", ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    check_tokens(output, server)
    assert reason in server.context_texts()[1]
    assert record(output)["recovered"] == 1
    assert reason not in response_text(output)


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "code_interpreter", "arguments": {"code": ' + "1" * 5000 + "}}",
        '{"name": "code_interpreter", "arguments": ' + "[" * 5000,
    ],
    ids=["integer beyond Python's limit", "nesting beyond Python's limit"],
)
async def test_json_that_breaks_the_parser_is_malformed(body):
    server = ScriptedServer([f"<tool_call>\n{body}\n</tool_call>", OTHER, ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(), response_length=9000))
    assert record(output)["retries"][0]["kinds"] == ("malformed_call",)
    assert record(output)["recovered"] == 1


@pytest.mark.parametrize("values", [{"rollback_on_errors": "[timeout]"}, {"max_tool_retries": 0}])
async def test_malformed_calls_that_cannot_be_repaired_end_as_in_stock(values):
    broken = "<tool_call>\n{]\n</tool_call>"
    stock, ours = [
        (await run_loop(cls, ScriptedServer([broken, ANSWER]), config))[0]
        for cls, config in ((verl_loop.ToolAgentLoop, OFF), (ToolAgentLoop, make_config(*rollback(**values))))
    ]
    assert ours.response_ids == stock.response_ids
    assert record(ours)["attempts"][0]["kinds"] == ("malformed_call",)


async def test_dropped_calls_are_counted_once():
    """A broken call that may not be repaired beside a failing one that may: the retry replaces both."""
    config = make_config(*rollback(rollback_on_errors="[NameError]"))
    server = ScriptedServer([f"{FAIL}\n<tool_call>\n{{]\n</tool_call>", FIXED, ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, config)
    assert [a["kinds"] for a in record(output)["attempts"]] == [("NameError", "malformed_call"), (None,)]


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("say Error executing tool 'code_interpreter': no", None, "Error executing tool 'code_interpreter': no"),
        ("say Unknown function 'code_interpreter'", None, "Unknown function"),
        ("raise no luck", "tool_error", "Error executing tool 'code_interpreter': no luck"),
    ],
)
async def test_tools_without_a_status(code, kind, text):
    """What a tool says is never taken for a status; what it raises is the model's fault."""
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer([call(code), ANSWER]), OFF)
    assert record(output)["attempts"][0]["kinds"] == (kind,)
    assert text in response_text(output)


@pytest.mark.parametrize("arguments", ["{}", '{"text": "ok 1"}', '{"code": "ok 1", "more": 1}', "[1]", "null"])
async def test_wrong_or_missing_arguments_are_malformed_calls(arguments):
    """Whatever the tool makes of them: here it raises on most, and takes no notice of one too many."""
    broken = f'<tool_call>\n{{"name": "code_interpreter", "arguments": {arguments}}}\n</tool_call>'
    server = ScriptedServer([f"Try. {broken}", f"Fix. {OTHER}", ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    kinds = record(output)["attempts"][0]["kinds"]
    assert kinds == ((None,) if "more" in arguments else ("malformed_call",))
    assert record(output)["recovered"] == ("more" not in arguments)


async def test_a_call_cut_off_by_the_length_limit_is_not_repaired():
    long = f"A. {call('ok ' + 'x' * 500)}"
    server = ScriptedServer([[*encode(long)][:300], "unused"])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(), response_length=300))
    assert len(server.contexts) == 1
    assert output.response_ids == encode(long)[:300]
    assert (record(output)["attempts"], record(output)["retries"]) == ([], [])


async def test_a_tool_that_raises_an_outage():
    with pytest.raises(InfrastructureError, match="the search engine"):
        await run_loop(ToolAgentLoop, ScriptedServer([call("down the search engine")]), ON)


@pytest.mark.parametrize("config", [ON, OFF], ids=["on", "off"])
@pytest.mark.parametrize("text", [call("say \ud83d"), call("ok", name="\ud83d")], ids=["output", "name"])
async def test_lone_surrogates(caplog, config, text):
    """JSON spells what no tokenizer takes."""
    # VeRL logs the name as it is, which the report of a test in another process cannot hold.
    caplog.set_level(logging.ERROR, logger=verl_loop.logger.name)
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer([text]), config)
    assert "?" in response_text(output)


async def test_an_empty_retry():
    """No token at all is no call; the log-probs stay aligned."""
    server = ScriptedServer([f"A. {FAIL}", [], ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    check_tokens(output, server)
    assert record(output)["retries"][0]["result"] == "no_call"
    assert trained_text(output) == f"A. {FAIL}<|im_end|>"


async def test_ids_beyond_the_vocabulary():
    """Padded embeddings can yield them."""
    beyond = len(TOKENIZER) + 7
    server = ScriptedServer([[beyond, *encode(f"A. {FAIL}"), EOS], [beyond, *encode(FIXED), EOS], ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    check_tokens(output, server)
    assert output.response_ids[0] == beyond
    assert record(output)["retries"][0]["strategy"] == "tool_call_only"


async def test_the_end_of_the_context_ends_the_trajectory():
    """Where max_model_len is below prompt_length + response_length; the engine would refuse the next request."""
    config = make_config("actor_rollout_ref.rollout.max_model_len=200", *rollback())
    server = ScriptedServer([call("ok " + "x" * 60), "unused"])
    output, _ = await run_loop(ToolAgentLoop, server, config)
    assert len(server.contexts) == 1
    assert output.response_mask == [1] * len(output.response_ids)


async def test_one_broken_of_two_calls():
    """Every call is answered in order and all new calls run."""
    server = ScriptedServer(
        [f"Two. {call('ok 1')}\n<tool_call>\n{{]\n</tool_call>", f"Two. {call('ok 1')}\n{OTHER}", ANSWER]
    )
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    check_tokens(output, server)
    side = server.context_texts()[1]
    assert side.index("<tool_response>\n1\n") < side.index("Invalid tool call: not valid JSON")
    assert [a["kinds"] for a in record(output)["attempts"]] == [(None, "malformed_call"), (None, None)]
    assert response_text(output).count("<tool_response>") == 2


async def test_calls_beyond_the_limit_are_left_out_as_in_stock():
    """VeRL's default is one call a turn. A second one is no fault of the model's."""
    limit = "actor_rollout_ref.rollout.multi_turn.max_parallel_calls=1"
    script = [f"Two. {OTHER}\n{OTHER}", ANSWER]
    stock, ours = [
        (await run_loop(cls, ScriptedServer(script), make_config(*flags, limit)))[0]
        for cls, flags in ((verl_loop.ToolAgentLoop, []), (ToolAgentLoop, rollback()))
    ]
    assert ours.response_ids == stock.response_ids
    assert [a["kinds"] for a in record(ours)["attempts"]] == [(None,)]
    assert record(ours)["retries"] == []


async def test_a_broken_call_within_the_limit_is_repaired_and_one_beyond_is_not():
    limit = "actor_rollout_ref.rollout.multi_turn.max_parallel_calls=1"
    for turn, retries in ((f"{BROKEN}\n{OTHER}", 1), (f"{OTHER}\n{BROKEN}", 0)):
        server = ScriptedServer([turn, OTHER, ANSWER])
        output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(), limit))
        assert len(record(output)["retries"]) == retries


async def test_a_retry_does_not_use_up_turns():
    limits = ["actor_rollout_ref.rollout.multi_turn.max_assistant_turns=3"]
    server = ScriptedServer([f"A. {FAIL}", f"A. {FAIL}", f"A. {FIXED}", f"B. {OTHER}", ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(), *limits))
    assert trained_text(output).endswith(f"{ANSWER}<|im_end|>")


async def test_max_tokens_of_a_retry():
    """min(room of the response before the turn, room of the context after the side context), minus one."""
    first = f"A. {FAIL}"
    server = ScriptedServer([first, f"A. {FIXED}", ANSWER])
    await run_loop(ToolAgentLoop, server, make_config(*rollback(), response_length=400))
    side = len(server.contexts[1])
    assert server.params[1]["max_tokens"] == min(400, 200 + 400 - side) - 1
    assert "max_tokens" not in server.params[0]


async def test_an_error_that_does_not_fit_is_repaired_all_the_same():
    """The side context may be longer than the response; it is thrown away."""
    length = len(encode(f"A. {FAIL}")) + 10
    server = ScriptedServer([f"A. {FAIL}", f"A. {call('ok')}", ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(), response_length=length))
    check_tokens(output, server)
    assert "NameError: x is not defined" in server.context_texts()[1]
    assert trained_text(output).startswith(f"A. {call('ok')}")


async def test_without_room_the_failed_turn_stays():
    """As VeRL: an error that does not fit is left away and the trajectory ends."""
    length = len(encode(f"A. {FAIL}")) + 3
    config = make_config(*rollback(), "actor_rollout_ref.rollout.max_model_len=80", response_length=length)
    server = ScriptedServer([f"A. {FAIL}", "unused"])
    output, _ = await run_loop(ToolAgentLoop, server, config)
    assert len(server.contexts) == 1
    assert response_text(output) == f"A. {FAIL}<|im_end|>"
    assert record(output)["retries"][0]["result"] == "no_room"


@pytest.mark.parametrize(("spare", "strategy"), [(0, "full_turn"), (1, "tool_call_only")])
async def test_a_mix_that_would_fill_the_response_gives_way_to_the_whole_retry(spare, strategy):
    """VeRL ends a trajectory that is full before it runs the tools."""
    reasoning = "A long way of thinking. " * 4
    length = len(encode(reasoning + FIXED)) + 1 + spare
    server = ScriptedServer([reasoning + call("NameError x"), f"A. {FIXED}", ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(), response_length=length))
    check_tokens(output, server)
    assert record(output)["retries"][0]["strategy"] == strategy


async def test_a_span_covers_what_earlier_retries_overwrote():
    """A whole retry, then only its call: all of the turn is overwritten, and nothing before it."""
    server = ScriptedServer(
        [f"First. {OTHER}", f"A. {FAIL}", f"B. {call('ValueError 4242424242')}", f"C. {call('ok 4242424242')}", ANSWER]
    )
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    first, second = record(output)["retries"]
    assert (first["strategy"], second["strategy"]) == ("full_turn", "tool_call_only")
    assert second["span"][0] == first["span"][0]
    start, end = second["span"]
    assert TOKENIZER.decode(output.response_ids[start:end]) == f"B. {call('ok 4242424242')}<|im_end|>"


async def test_a_response_that_does_not_fit_ends_as_in_stock():
    """With rollback on it is appended first, and left away when the turn turns out to be right."""
    length = len(encode(OTHER)) + 10
    script = [OTHER, "unused"]
    stock, ours = [
        (await run_loop(cls, ScriptedServer(script), make_config(*flags, response_length=length)))[0]
        for cls, flags in ((verl_loop.ToolAgentLoop, []), (ToolAgentLoop, rollback()))
    ]
    assert ours.response_ids == stock.response_ids
    assert ours.num_turns == stock.num_turns
    assert ours.extra_fields["tool_rewards"] == stock.extra_fields["tool_rewards"] == [0.0]


async def test_a_retry_that_is_cut_off_repairs_nothing():
    long = f"A. {call('ok ' + 'x' * 500)}"
    server = ScriptedServer([f"A. {FAIL}", long])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(), response_length=300))
    check_tokens(output, server)
    assert record(output)["retries"][0]["result"] == "no_call"
    assert len(output.response_ids) <= 300


async def test_a_cut_off_retry_with_room_left_is_thrown_away():
    """The failed turn and its error stay, as after the last retry, and the trajectory goes on."""
    config = make_config(*rollback(), "actor_rollout_ref.rollout.max_model_len=300")
    server = ScriptedServer([f"A. {FAIL}", f"A. {call('ok ' + 'x' * 200)}", ANSWER])
    output, _ = await run_loop(ToolAgentLoop, server, config)
    check_tokens(output, server)
    retry = record(output)["retries"][0]
    assert (retry["result"], retry["discarded"]) == ("no_room", retry["generated"])
    assert "NameError: x is not defined" in response_text(output)
    assert trained_text(output) == f"A. {FAIL}<|im_end|>{ANSWER}<|im_end|>"


async def test_every_generation_has_a_seed_of_its_own():
    """By run, step, sample, rollout, turn and retry; the same ones the next time."""
    script = [f"A. {FAIL}", f"A. {FAIL}", f"A. {FIXED}", f"B. {FAIL}", f"B. {FIXED}", ANSWER]
    servers = [ScriptedServer(script) for _ in range(3)]
    for server, session in zip(servers, (0, 0, 1), strict=True):
        await run_loop(ToolAgentLoop, server, ON, session_id=session)
    seeds = [[params["seed"] for params in server.params] for server in servers]
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 12


async def test_rows_without_an_index_are_told_apart_by_their_prompt():
    """VeRL says index 0 for all of them; their gates and seeds would be the same."""
    keys = []
    for extra_info, content in ({}, "a"), ({}, "b"), ({}, "b"), ({"index": 0}, "a"), ({"index": 0}, "b"):
        loop = make_loop(ToolAgentLoop, ScriptedServer(["done"]), make_config(*rollback()))
        prompt = [{"role": "user", "content": content}]
        sample = {"global_steps": 1, "index": 0, "session_id": 0, "extra_info": extra_info}
        await loop.run({"temperature": 1.0}, raw_prompt=prompt, **sample)
        keys.append(loop.key)
    assert len(set(keys[:3])) == 2
    assert keys[1] == keys[2]
    assert keys[3] == keys[4] == (42, "train", 1, 0, 0)


async def test_gate_and_validation():
    never = make_config(*rollback(rollback_probability=0))
    script = [f"A. {FAIL}", ANSWER]
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), never)
    assert record(output)["enabled"]
    assert not record(output)["eligible"]
    assert not record(output)["retries"]
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer([script[0], f"A. {FIXED}"]), never, is_validation=True)
    assert record(output)["recovered"] == 1
    bare = make_config(*rollback(rollback_at_validation=False))
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), bare, is_validation=True)
    assert not record(output)["enabled"]
    assert not record(output)["retries"]


async def test_annealed_rollback_ends_with_its_step():
    annealed = make_config(*rollback(rollback_anneal_steps=2))
    script = [f"A. {FAIL}", f"A. {FIXED}", ANSWER]
    for step, repaired in ((1, True), (3, False)):
        output, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), annealed, global_steps=step)
        assert record(output)["enabled"]
        assert record(output)["eligible"] == repaired
        assert record(output)["recovered"] == repaired


async def test_outage_and_bug_are_raised():
    with pytest.raises(InfrastructureError, match="judge is gone"):
        await run_loop(ToolAgentLoop, ScriptedServer([call("outage")]), ON)
    with pytest.raises(RuntimeError, match="our bug"):
        await run_loop(ToolAgentLoop, ScriptedServer([call("bug")]), OFF)


async def test_without_logprobs():
    server = ScriptedServer([f"First idea. {FAIL}", f"Fix. {FIXED}", ANSWER], logprobs=False)
    output, _ = await run_loop(ToolAgentLoop, server, ON)
    assert output.response_logprobs is None
    assert trained_text(output) == f"First idea. {FIXED}<|im_end|>{ANSWER}<|im_end|>"


async def test_rendering_the_messages_gives_the_ids_again():
    server = ScriptedServer([f"First idea. {FAIL}", f"Fix. {FIXED}", f"More. {OTHER}", ANSWER])
    output, messages = await run_loop(ToolAgentLoop, server, ON)
    ids = output.prompt_ids + output.response_ids
    for message in messages:
        # VeRL keeps the decoded turn with its end token.
        message["content"] = message["content"].replace("<|im_end|>", "")
    newline = encode("\n")
    assert [*ids, *newline] == rendered(messages)
    assert messages[0] == PROMPT[0]


TURNS = {
    "ok": f"Good. {OTHER}",
    "fail": f"Bad. {FAIL}",
    "near": f"Near. {FIXED}",
    "timeout": f"Slow. {call('timeout')}",
    "open": '<tool_call>\n{"name": "code_interpreter"',
    "json": "Hm. <tool_call>\n{]\n</tool_call>",
    "two": f"Two. {OTHER}\n{FAIL}",
    "half": f"Half. {OTHER}\n<tool_call>\n{{]\n</tool_call>",
    "unknown": call("ok", name="python"),
    "long": f"Long. {call('ok ' + 'y' * 150)}",
    "answer": ANSWER,
}
scripts = st.lists(st.sampled_from(sorted(TURNS)), max_size=8).map(lambda names: [TURNS[n] for n in names])


LIMITS = {
    "response_length": st.sampled_from([60, 150, 400, 1000]),
    "max_model_len": st.sampled_from([300, 1200]),
    "multi_turn": st.fixed_dictionaries(
        {
            "max_assistant_turns": st.sampled_from([2, 4, None]),
            "max_parallel_calls": st.sampled_from([1, 2, 8]),
            "max_tool_retries": st.integers(0, 3),
            "rollback_similarity_threshold": st.sampled_from([0, 0.5, 1]),
            "rollback_similarity_on": st.sampled_from(["arguments", "call"]),
            "rollback_probability": st.sampled_from([0, 1]),
            "rollback_on_errors": st.sampled_from([None, ["NameError"], ["malformed_call", "timeout"]]),
            "rollback_mode": st.sampled_from(["overwrite", "overwrite", "keep", "void"]),
            "rollback_feedback": st.sampled_from(["raw", "explained"]),
            "rollback_max_retries": st.sampled_from([None, 0, 2]),
            "rollback_max_tokens": st.sampled_from([None, 0, 90]),
        }
    ),
}


@settings(max_examples=120, deadline=None)
@given(script=scripts, limits=st.fixed_dictionaries(LIMITS))
async def test_invariants_for_random_failures(script, limits):
    """For every script and setting: ids, mask and log-probs aligned after every state, only sampled tokens trained, no
    limit exceeded, the books balanced."""
    config = configured("actor_rollout_ref.rollout", **limits)
    server = ScriptedServer(script)
    output, _ = await run_loop(ToolAgentLoop, server, config)
    check_tokens(output, server)
    multi_turn, r = limits["multi_turn"], record(output)
    assert len(output.response_ids) <= limits["response_length"]
    assert all(len(context) < limits["max_model_len"] for context in server.contexts)
    retries = [x for x in r["retries"] if x["generated"]]
    assert len(server.contexts) - len(retries) <= (multi_turn["max_assistant_turns"] or 99)
    for _, group in itertools.groupby(retries, key=lambda x: x["turn"]):
        assert len(list(group)) <= multi_turn["max_tool_retries"]
    for limit, spent in (("rollback_max_retries", len(retries)), ("rollback_max_tokens", sum_of(retries, "generated"))):
        assert multi_turn[limit] is None or spent <= multi_turn[limit]
    last_spans = {retry["turn"]: retry["span"] for retry in retries if retry["span"]}
    for start, end in last_spans.values():
        assert all(output.response_mask[start:end])
        assert end <= len(output.response_ids)
    assert r["failed"] <= 1
    assert r["sampled_tokens"] == len(server.sampled)
    trained = sum(output.response_mask)
    kept = r["sampled_tokens"] - sum_of(retries, "discarded")
    assert trained == kept or (trained < kept and len(output.response_ids) == limits["response_length"])


def sum_of(rows, name):
    return sum(row[name] for row in rows)


@settings(max_examples=60, deadline=None)
@given(script=scripts, response_length=st.sampled_from([60, 150, 400, 1000]), turns=st.sampled_from([2, 4, "null"]))
async def test_rollback_off_is_stock(script, response_length, turns):
    config = make_config(
        f"actor_rollout_ref.rollout.multi_turn.max_assistant_turns={turns}", response_length=response_length
    )
    outputs = [
        (await run_loop(cls, ScriptedServer(script), config))[0] for cls in (verl_loop.ToolAgentLoop, ToolAgentLoop)
    ]
    stock, ours = (output.model_dump() for output in outputs)
    for key in ("prompt_ids", "response_ids", "response_mask", "response_logprobs", "num_turns"):
        assert stock[key] == ours[key]
    assert stock["extra_fields"] == {k: v for k, v in ours["extra_fields"].items() if k != RECORD_FIELD}


async def test_malformed_calls_end_as_in_stock_but_are_counted():
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer([TURNS["json"]]), OFF)
    assert record(output)["attempts"][0]["kinds"] == ("malformed_call",)
    assert response_text(output).endswith("</tool_call><|im_end|>")
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer([TURNS["half"], ANSWER]), OFF)
    assert record(output)["attempts"][0]["kinds"] == (None, "malformed_call")


async def test_dropped_calls_are_not_counted_again_in_a_turn_that_is_never_read():
    """VeRL ends the trajectory at its length before it looks for calls."""
    config = make_config(response_length=400)
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer([TURNS["half"], "x" * 500]), config)
    assert [a["kinds"] for a in record(output)["attempts"]] == [(None, "malformed_call")]


def test_eos():
    assert TOKENIZER.decode([EOS]) == "<|im_end|>"
