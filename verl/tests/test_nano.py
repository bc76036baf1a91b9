"""The quickstart's tasks, traces, tokenizer and cold start."""

import json
import random

import loop_harness
import pytest
from loop_harness import ScriptedServer, make_config, make_loop
from verl.tools.schemas import ToolResponse

from cleaner_lab.nano import cold_start as cold
from cleaner_lab.nano import traces
from cleaner_lab.nano.solutions import solve
from cleaner_lab.nano.tasks import FAMILIES, TOOL, UNSEEN, WIDE, make_tasks, to_row
from cleaner_lab.nano.tokenizer import train_tokenizer
from verl_cleaner.reward.reasoning_gym import compute_score
from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop
from verl_cleaner.saar.outcome import OK

TASKS = make_tasks("cold_start", 210, seed=3)
WIDE_TASKS = make_tasks("cold_start", 420, seed=3, wide=True)


def test_splits_are_disjoint_and_repeatable():
    held_out = make_tasks("val", 160, seed=0)
    reserved = frozenset(task.question for task in held_out)
    train = make_tasks("train", 140, seed=0, exclude=reserved)
    assert len({task.question for task in train}) == 140
    assert not reserved & {task.question for task in train}
    assert {task.family for task in held_out} == {*FAMILIES, UNSEEN}
    assert {task.family for task in train} == set(FAMILIES)
    assert {task.family for task in make_tasks("val", 160, seed=0, wide=True)} == {*WIDE, UNSEEN}
    assert make_tasks("train", 140, seed=0, exclude=reserved) == train
    assert make_tasks("train", 140, seed=1, exclude=reserved) != train


@pytest.mark.parametrize("family", sorted(WIDE))
def test_solutions_satisfy_the_family_s_verifier(family):
    for task in [task for task in WIDE_TASKS if task.family == family][:30]:
        output, ok = traces.run_code(solve(task))
        assert ok, output
        row = to_row(task, split="train", index=0)
        score = compute_score(row["data_source"], f"\\boxed{{{output}}}", task.answer, row["extra_info"])
        assert score["acc"] == 1.0, (task.question, output, task.answer)


@pytest.mark.parametrize("mistake", traces.MISTAKES, ids=lambda mistake: mistake.name)
def test_mistakes_are_what_they_are_called(mistake):
    """Visible ones fail when they run, silent ones run; both change the program."""
    for task in WIDE_TASKS[:140]:
        code = solve(task)
        wrong = mistake.apply(code, random.Random(0))
        assert wrong != code, task.question
        _, ok = traces.run_code(wrong)
        assert ok is not mistake.visible, wrong


def test_traces_show_real_errors_and_end_as_their_last_call():
    rng = random.Random(0)
    made = [traces.make_trace(task, rng) for task in TASKS]
    names = {name for trace in made for name in trace.mistakes}
    assert names == {"none", "malformed", *(mistake.name for mistake in traces.MISTAKES)}
    assert {trace.correct for trace in made} == {True, False}
    for trace in made:
        calls = [m["content"] for m in trace.messages if m["role"] == "assistant"][:-1]
        responses = [m["content"] for m in trace.messages if m["role"] == "tool"]
        assert [traces.respond(call)[0] for call in calls] == responses
        assert len(calls) <= traces.MAX_CALLS
        last, ok = traces.respond(calls[-1])
        assert trace.messages[-1]["content"] == (f"\\boxed{{{last}}}" if ok else "I could not solve it.")


@pytest.fixture(scope="module")
def tokenizer():
    rng = random.Random(0)
    texts = [text for task in TASKS for text, _ in cold.segments(traces.make_trace(task, rng))]
    return train_tokenizer(texts, vocab_size=400)


async def test_the_loop_builds_the_tokens_the_policy_was_trained_on(tokenizer, monkeypatch):
    """Cold start and VeRL's incremental tokenisation agree, token for token."""
    rng = random.Random(1)
    trace = next(
        t
        for t in (traces.make_trace(task, rng) for task in TASKS)
        if len(t.messages) >= 6 and "malformed" not in t.mistakes
    )
    turns = [m["content"] for m in trace.messages if m["role"] == "assistant"]
    responses = iter([m["content"] for m in trace.messages if m["role"] == "tool"])
    server = ScriptedServer(turns, tokenizer=tokenizer)

    async def respond(self, instance_id, parameters, **_):
        return ToolResponse(text=next(responses)), 0.0, {"outcome": OK}

    monkeypatch.setattr(loop_harness.Tool, "execute", respond)
    config = make_config("actor_rollout_ref.rollout.multi_turn.max_tool_response_length=400")
    loop = make_loop(ToolAgentLoop, server, config)
    output = await loop.run({}, raw_prompt=trace.messages[:1], global_steps=1, index=0, session_id=0)
    ids, mask = cold.tokenize(trace, tokenizer)
    assert output.prompt_ids + output.response_ids == ids
    assert [0] * len(output.prompt_ids) + output.response_mask == mask


def test_tokenizer_and_template(tokenizer):
    for mark in ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"):
        assert len(tokenizer.encode(mark, add_special_tokens=False)) == 1
        assert mark in tokenizer.decode(tokenizer.encode(f"a{mark}b"), skip_special_tokens=True)
    assert tokenizer.decode(tokenizer.encode('print("ä😀 1234")\n')) == 'print("ä😀 1234")\n'
    messages = [{"role": "user", "content": "What is 1 + 1?"}]
    text = tokenizer.apply_chat_template(messages, tools=[TOOL], add_generation_prompt=True, tokenize=False)
    trace = traces.Trace([*messages, {"role": "assistant", "content": "2"}], (), True)
    assert next(cold.segments(trace))[0] == text


def test_cold_start_is_made_once_per_settings(tmp_path, capsys):
    settings = cold.Settings(
        hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, head_dim=8, vocab_size=300, traces=60, steps=3,
        tokens=256, train_size=14, val_size=16,
    )  # fmt: skip
    out = tmp_path / "nano"
    assert cold.cold_start(out, settings)
    summary = json.loads((out / cold.MARKER).read_text())
    assert len(summary["losses"]) == 3
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(out / "model").config.model_type == "qwen3"
    assert AutoTokenizer.from_pretrained(out / "model").eos_token == "<|im_end|>"
    assert not cold.cold_start(out, settings)
    assert cold.cold_start(out, cold.Settings(**{**summary["settings"], "seed": 1}))


def test_reward_counts_only_the_answer_after_the_last_tool_response():
    task = next(task for task in TASKS if task.family == "gcd")
    info = to_row(task, split="train", index=0)["extra_info"]
    right, wrong = f"\\boxed{{{task.answer}}}", "\\boxed{-1}"
    for text, acc in (
        (right, 1.0),
        (wrong, 0.0),
        (f"{wrong} {right}", 1.0),
        (f"{right} {wrong}", 0.0),
        (f"{right}<tool_response>1</tool_response>", 0.0),
        ("no answer", 0.0),
        ("\\boxed{}", 0.0),
    ):
        assert compute_score("reasoning_gym/gcd", text, task.answer, info)["acc"] == acc, text
