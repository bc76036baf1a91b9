"""Log-probs of overwritten tokens, against the model itself."""

import pytest
from loop_harness import PROMPT, call, make_config, make_loop, rollback, run_loop
from model_server import TOKENIZER, ForcedServer, cpu_server, random_model, true_logprobs

from verl_cleaner.rollout.rescore import score
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop

FAIL, FIXED, OTHER = call("NameError x is not defined"), call("ok NameError x is 1"), call("ok 42")
SCRIPT = [f"Near. {FAIL}", f"Fix. {FIXED}", f"Far. {FAIL}", f"Fix. {OTHER}", f"B. {FAIL}", f"C. {FAIL}", FIXED, "Done."]
PREFIX = "actor_rollout_ref.rollout"
EXACT = (f"{PREFIX}.calculate_log_probs=True", f"{PREFIX}.temperature=1", f"{PREFIX}.top_p=1")


@pytest.fixture(scope="module")
def model():
    return random_model()


def config(*overrides, **values):
    return make_config(*rollback(**values), *EXACT, *overrides)


async def run(model, script=SCRIPT, *, sampled=0, **values):
    server = ForcedServer(cpu_server(model), list(script), sampled=sampled)
    output, _ = await run_loop(ToolAgentLoop, server, config(**values))
    return server, output, output.extra_fields[RECORD_FIELD]


def differences(model, output):
    """|Δ| against the model on the purified trajectory: of the overwritten tokens, and of the other trained ones."""
    ids = output.prompt_ids + output.response_ids
    true = true_logprobs(model, ids)[len(output.prompt_ids) - 1 :]
    spans = {r["turn"]: r["span"] for r in output.extra_fields[RECORD_FIELD]["retries"] if r["span"]}
    overwritten = {i for start, end in spans.values() for i in range(start, end)}
    delta = {i: abs(true[i] - output.response_logprobs[i]) for i, mask in enumerate(output.response_mask) if mask}
    return [d for i, d in delta.items() if i in overwritten], [d for i, d in delta.items() if i not in overwritten]


async def test_the_engines_scores_are_its_sampling_logprobs(model):
    server = cpu_server(model)
    prompt = TOKENIZER.encode("<|im_start|>user\nhello<|im_end|>\n", add_special_tokens=False)
    sampled = await server.generate(
        prompt, {"temperature": 1.0, "max_tokens": 200, "logprobs": True, "ignore_eos": True}, "a"
    )

    class Client:
        async def generate(self, request_id, *, prompt_ids, sampling_params):
            return await server.generate(prompt_ids, sampling_params, request_id)

    scores = await score(Client(), prompt + sampled.token_ids, len(prompt))
    assert scores == pytest.approx(sampled.log_probs, abs=1e-5)


async def test_rescored_logprobs_are_exact(model):
    _, output, record = await run(model, rollback_logprobs="rescore")
    overwritten, others = differences(model, output)
    assert len(overwritten) > 100
    assert max(overwritten) < 1e-5
    assert max(others) < 1e-5
    assert record["recovered"] == 3


async def test_without_rescoring_they_are_off_by_orders_of_magnitude(model):
    _, output, _ = await run(model)
    overwritten, others = differences(model, output)
    assert max(others) < 1e-5
    assert sum(overwritten) / len(overwritten) > 1e-2


async def test_the_purification_gap(model):
    """Per span: the model's log-prob in the clean context minus the log-prob as sampled."""
    _, before, _ = await run(model)
    server, after, record = await run(model, rollback_logprobs="rescore")
    assert before.response_ids == after.response_ids
    assert len(server.scored) == 1  # one request a trajectory
    noted = {r["turn"]: (r["span"], r["gap"]) for r in record["retries"] if r["span"]}
    assert len(noted) == 3
    for (start, end), gap in noted.values():
        expected = sum(after.response_logprobs[start:end]) - sum(before.response_logprobs[start:end])
        assert gap == pytest.approx(expected, abs=1e-6)
        assert abs(gap) > 0.1


async def test_implausible_repairs_are_refused(model):
    """A gap below the limit: the failed turn and its error stay."""
    script = [f"Near. {FAIL}", f"Fix. {FIXED}", "Done."]
    _, output, record = await run(model, script, rollback_logprobs="rescore")
    gap = record["retries"][0]["gap"]
    for limit, result in ((gap - 0.01, "overwritten"), (gap + 0.01, "implausible")):
        _, output, record = await run(model, script, rollback_logprobs="rescore", rollback_min_logratio=limit)
        retry = record["retries"][0]
        assert retry["result"] == result
        assert (retry["strategy"] is None) == (retry["span"] is None) == (result == "implausible")
        assert retry["gap"] == pytest.approx(gap, abs=1e-4)
        text = TOKENIZER.decode(output.response_ids)
        assert ("NameError: x is not defined" in text) == (result == "implausible")
        assert text.endswith("Done.<|im_end|>")
        assert (record["recovered"], record["failed"]) == ((1, 0) if result == "overwritten" else (0, 1))
        assert max(max(part, default=0) for part in differences(model, output)) < 1e-5


async def test_nothing_is_scored_without_an_overwrite_or_where_it_would_not_be_exact(model):
    server, _, _ = await run(model, [f"A. {OTHER}", "Done."], rollback_logprobs="rescore")
    assert server.scored == []
    server = ForcedServer(cpu_server(model), SCRIPT)
    loop = make_loop(ToolAgentLoop, server, config(rollback_logprobs="rescore"))
    sampling = {"temperature": 1.0, "top_p": 0.6}
    await loop.run(sampling, raw_prompt=PROMPT, global_steps=1, index=0, session_id=0, is_validation=True)
    assert server.scored == []


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("calculate_log_probs=False", "calculate_log_probs=True"),
        ("temperature=0.7", "temperature=1"),
        ("top_p=0.9", "top_p=1"),
    ],
)
def test_rescoring_needs_plain_sampling(model, override, named):
    with pytest.raises(ValueError, match=f"rescore needs .*{named}, got"):
        make_loop(ToolAgentLoop, ForcedServer(None, []), config(f"{PREFIX}.{override}", rollback_logprobs="rescore"))


async def test_a_seed_gives_the_same_trajectory_again(model):
    """Two runs on the CPU backend; another seed gives another trajectory."""
    one, two = [(await run(model, sampled=6))[1] for _ in range(2)]
    assert one.response_ids == two.response_ids
    assert one.response_logprobs == two.response_logprobs
    server = ForcedServer(cpu_server(model), SCRIPT, sampled=6)
    other, _ = await run_loop(ToolAgentLoop, server, config(f"{PREFIX}.seed=7"))
    assert other.response_ids != one.response_ids
