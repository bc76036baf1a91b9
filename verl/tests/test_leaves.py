"""Which failed calls are leaves, and how they travel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loop_harness import TOKENIZER, ScriptedServer, call, encode, make_config, rollback, run_loop

from verl_cleaner.rollout.carried import LEAF_SCORES_FIELD, LEAVES_FIELD, pack_leaves, unpack_leaves
from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop
from verl_cleaner.saar.gate import in_stratum
from verl_cleaner.saar.leaf import Leaf, make_leaf
from verl_cleaner.saar.segment import Turn

FAIL, WORSE, FIXED = (
    call(code) for code in ("NameError x is not set", "TypeError x is not set", "ok NameError x is 1")
)
OTHER, END = call("ok 42"), "<|im_end|>"


async def leaves_of(script, **run):
    """(prefix, failed) of each leaf, as text; the leaves; the fields that travel; the server."""
    values = {"rollback_failed_calls": "leaf"} | run.pop("values", {})
    server = ScriptedServer(script)
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback(**values)), **run)
    fields = output.as_dict()
    assert "leaves" not in fields
    leaves = unpack_leaves(fields.get(LEAVES_FIELD, torch.tensor([0])), fields.get(LEAF_SCORES_FIELD))
    texts = [tuple(TOKENIZER.decode(ids) for ids in (output.response_ids[: leaf.start], leaf.ids)) for leaf in leaves]
    return texts, leaves, fields, server


async def test_the_first_attempt_is_the_leaf_in_its_own_context():
    texts, (leaf,), fields, server = await leaves_of([f"A. {FAIL}", f"B. {FIXED}", "Done."])
    assert texts == [("A. ", f"{FAIL}{END}")]
    prefix = torch.cat([fields["prompts"], fields["responses"][: leaf.start]]).tolist()
    assert [*prefix, *leaf.ids] == server.contexts[0] + encode(f"A. {FAIL}{END}")
    assert [server.sampled[logprob] for logprob in leaf.logprobs] == list(leaf.ids)


async def test_a_retry_that_fails_was_sampled_with_an_error_in_view_and_is_no_leaf():
    texts, *_ = await leaves_of([f"A. {FAIL}", f"B. {WORSE}", f"C. {FIXED}", "Done."])
    assert texts == [("A. ", f"{FAIL}{END}")]


async def test_the_whole_turn_is_the_leaf_where_the_whole_turn_was_replaced():
    assert (await leaves_of([f"A. {FAIL}", f"B. {OTHER}", "Done."]))[0] == [("", f"A. {FAIL}{END}")]
    # First only the call is replaced, then the whole turn.
    texts, *_ = await leaves_of([f"A. {FAIL}", f"B. {WORSE}", f"C. {OTHER}", "Done."])
    assert texts == [("", f"A. {FAIL}{END}")]


async def test_every_repaired_turn_makes_one_and_its_context_is_clean():
    script = [f"A. {FAIL}", f"B. {FIXED}", f"C. {WORSE}", f"D. {FIXED}", "Done."]
    texts, leaves, fields, server = await leaves_of(script)
    assert [failed for _, failed in texts] == [f"{FAIL}{END}", f"{WORSE}{END}"]
    assert FAIL not in texts[1][0]
    prefix = torch.cat([fields["prompts"], fields["responses"][: leaves[1].start]]).tolist()
    assert [*prefix, *leaves[1].ids] == server.contexts[2] + encode(f"C. {WORSE}{END}")


@pytest.mark.parametrize(
    "script",
    [
        [f"A. {FAIL}", f"B. {WORSE}", f"C. {WORSE}", f"D. {WORSE}", "Done."],
        [f"A. {FAIL}", "I cannot."],
        [f"A. {FIXED}", "Done."],
    ],
    ids=["never repaired", "no call", "nothing failed"],
)
async def test_no_leaf_without_a_repair(script):
    texts, _, fields, _ = await leaves_of(script)
    assert texts == []
    assert fields[LEAVES_FIELD].tolist() == [0]


@pytest.mark.parametrize(
    "run",
    [{"is_validation": True}, {"values": {"rollback_failed_calls": "discard"}}],
    ids=["validation", "discard"],
)
async def test_nothing_travels(run):
    _, _, fields, _ = await leaves_of([f"A. {FAIL}", f"B. {FIXED}", "Done."], **run)
    assert not {LEAVES_FIELD, LEAF_SCORES_FIELD} & set(fields)


async def test_keeping_leaves_changes_nothing_else():
    script = [f"A. {FAIL}", f"B. {FIXED}", f"C. {WORSE}", f"D. {FIXED}", "Done."]
    off, on = [(await leaves_of(script, values={"rollback_failed_calls": v}))[2] for v in ("discard", "leaf")]
    assert set(on) - set(off) == {LEAVES_FIELD, LEAF_SCORES_FIELD}
    for key in ("prompts", "responses", "response_mask", "rollout_log_probs", "overwritten_mask"):
        assert torch.equal(off[key], on[key])


@pytest.mark.parametrize(
    ("repaired", "replaced_from", "leaf"),
    [
        (Turn((1, 3, 9), boundary=1), 1, Leaf(11, (2, 8), (-2.0, -8.0))),
        (Turn((4, 3), boundary=1), 0, Leaf(10, (1, 2, 8), (-1.0, -2.0, -8.0))),
        (Turn((1, 2, 8), boundary=1), 1, None),
    ],
    ids=["call", "turn", "the same call ran the second time"],
)
def test_make_leaf(repaired, replaced_from, leaf):
    first = Turn((1, 2, 8), (-1.0, -2.0, -8.0), boundary=1)
    assert make_leaf(first, repaired, replaced_from=replaced_from, start=10) == leaf


ids = st.lists(st.integers(0, 2**40), min_size=1, max_size=5).map(tuple)


@given(st.lists(st.builds(Leaf, st.integers(0, 9), ids), max_size=4), st.integers(0, 3), st.booleans())
def test_packing_is_reversible_also_when_padded(leaves, padding, known):
    if known:
        leaves = [Leaf(leaf.start, leaf.ids, tuple(-float(n) for n in range(len(leaf.ids)))) for leaf in leaves]
    packed = {key: torch.cat([value, value.new_zeros(padding)]) for key, value in pack_leaves(leaves).items()}
    assert unpack_leaves(packed[LEAVES_FIELD], packed[LEAF_SCORES_FIELD]) == leaves


@given(st.integers(0, 100), st.integers(1, 64))
def test_a_stratum_is_a_fixed_share_of_every_group(percent, size):
    chosen = sum(in_stratum(percent / 100, rollout) for rollout in range(size))
    assert chosen == size * percent // 100


async def test_stratified_rollback_repairs_every_second_rollout():
    values = {"rollback_stratified": True, "rollback_probability": 0.5}
    counts = [
        len((await leaves_of([f"A. {FAIL}", f"B. {FIXED}", "Done."], values=values, session_id=number))[0])
        for number in range(8)
    ]
    assert counts == [0, 1] * 4


@pytest.mark.parametrize(
    ("script", "values", "texts"),
    [
        ([f"A. {FAIL}", "Done."], {"enable_tool_rollback": False}, [f"{FAIL}{END}"]),
        ([f"A. {FAIL}", f"B. {WORSE}", "No."], {"max_tool_retries": 1}, [None, f"{WORSE}{END}"]),
        ([f"A. {FIXED}", "Done."], {}, [None]),
    ],
    ids=["rollback off", "overwritten, failed again", "nothing failed"],
)
async def test_the_record_says_where_a_failed_call_stands(script, values, texts):
    config = make_config(*rollback(**values))
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), config)
    attempts = output.extra_fields["rollback_record"]["attempts"]
    spans = [attempt["span"] and TOKENIZER.decode(output.response_ids[slice(*attempt["span"])]) for attempt in attempts]
    assert len(spans) == len(texts)
    assert all(text is None or span == text for span, text in zip(spans, texts, strict=True))
    assert [span is None for span in spans] == [not any(attempt["kinds"]) for attempt in attempts]
