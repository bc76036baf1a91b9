"""Retry policy, feedback and ablations in VeRL's loop, against a scripted server."""

import asyncio

import pytest
from loop_harness import TOKENIZER, ScriptedServer, call, encode, make_config, rollback, run_loop

from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop
from verl_cleaner.saar.outcome import InfrastructureError

FAIL, FIXED, OTHER = call("NameError x is not defined"), call("ok NameError x is 1"), call("ok 42")
ANSWER = "The answer is 42."
END = "<|im_end|>"


async def run(script, *, response_length=1000, overrides=(), **values):
    server = ScriptedServer(script)
    config = make_config(*rollback(**values), *overrides, response_length=response_length)
    output, _ = await run_loop(ToolAgentLoop, server, config)
    assert len(output.response_ids) == len(output.response_mask) == len(output.response_logprobs)
    return server, output, output.extra_fields[RECORD_FIELD]


def text_of(output, *, trained):
    pairs = zip(output.response_ids, output.response_mask, strict=True)
    return TOKENIZER.decode([token for token, mask in pairs if mask or not trained])


async def test_keep_the_error_stays_in_the_context():
    script = [f"First. {FAIL}", f"Second. {FAIL}", f"Third. {FIXED}", ANSWER]
    server, output, record = await run(script, rollback_mode="keep")
    assert text_of(output, trained=True) == "".join(f"{turn}{END}" for turn in script)
    assert text_of(output, trained=False).count("NameError: x is not defined") == 2
    assert [r["result"] for r in record["retries"]] == ["kept", "kept"]
    assert record["recovered"] == 1
    # Every request continues the one before: nothing was taken back.
    for earlier, later in zip(server.contexts, server.contexts[1:], strict=False):
        assert later[: len(earlier)] == earlier
    assert record["retries"][0]["discarded"] == 0


async def test_keep_does_not_count_retries_as_turns():
    limit = ["actor_rollout_ref.rollout.multi_turn.max_assistant_turns=2"]
    script = [f"First. {FAIL}", f"Second. {FAIL}", f"Third. {FIXED}", ANSWER]
    _, output, _ = await run(script, rollback_mode="keep", overrides=limit)
    assert text_of(output, trained=True).endswith(f"{ANSWER}{END}")


async def test_void_turns_are_in_the_context_but_not_trained_on():
    script = [f"First. {FAIL}", f"Second. {FAIL}", f"Third. {FIXED}", ANSWER]
    _, output, record = await run(script, rollback_mode="void")
    assert text_of(output, trained=True) == f"Third. {FIXED}{END}{ANSWER}{END}"
    assert text_of(output, trained=False).startswith(f"First. {FAIL}{END}")
    assert f"Second. {FAIL}" in text_of(output, trained=False)
    assert [r["result"] for r in record["retries"]] == ["voided", "voided"]
    assert sum(r["discarded"] for r in record["retries"]) == len(encode(f"First. {FAIL}Second. {FAIL}")) + 2
    voided = [logprob for mask, logprob in zip(output.response_mask, output.response_logprobs, strict=True) if not mask]
    assert set(voided) == {0.0}


@pytest.mark.parametrize("mode", ["keep", "void"])
async def test_ablations_give_up_as_saar_does(mode):
    script = [f"Try. {FAIL}"] * 3 + [ANSWER]
    _, output, record = await run(script, rollback_mode=mode, max_tool_retries=2)
    text = text_of(output, trained=False)
    assert text.count("failed 3 times") == 1
    assert text.endswith(f"{ANSWER}{END}")
    assert (record["recovered"], record["failed"]) == (0, 1)


@pytest.mark.parametrize(("threshold", "reasoning"), [(0, "First."), (1, "Second.")])
@pytest.mark.parametrize("retry", [FAIL, OTHER], ids=["identical", "unrelated"])
async def test_threshold_zero_never_replaces_the_reasoning_and_one_always(threshold, reasoning, retry):
    script = [f"First. {FAIL}", f"Second. {retry}", ANSWER]
    _, output, record = await run(script, rollback_similarity_threshold=threshold, max_tool_retries=1)
    assert record["retries"][0]["similarity"] == (1.0 if retry is FAIL else pytest.approx(0.1, abs=0.15))
    assert text_of(output, trained=True).startswith(f"{reasoning} {retry}")


async def test_explained_feedback_is_seen_by_the_retry_only():
    script = [f"Try. {FAIL}", f"Try. {FAIL}", f"Try. {FAIL}", ANSWER]
    server, output, _ = await run(script, rollback_feedback="explained", max_tool_retries=2)
    side = server.context_texts()[1]
    assert "NameError: x is not defined\nA name is used that was never defined" in side
    assert "Correct the call and make it again." in side
    text = text_of(output, trained=False)
    assert "Correct the call" not in text
    assert "NameError: x is not defined\nThis approach has failed 3 times" in text


async def test_each_call_runs_once_however_often_it_is_worded(monkeypatch):
    from loop_harness import Tool

    ran = []
    execute = Tool.execute

    async def counted(self, instance_id, parameters, **kwargs):
        ran.append(parameters["code"])
        return await execute(self, instance_id, parameters, **kwargs)

    monkeypatch.setattr(Tool, "execute", counted)
    script = [f"Two. {OTHER}\n{FAIL}", f"Two. {OTHER}\n{FAIL}", f"Two. {OTHER}\n{FAIL}", ANSWER]
    _, output, _ = await run(script, rollback_feedback="explained", max_tool_retries=2)
    # The call that succeeded keeps its result.
    assert ran == ["ok 42", *["NameError x is not defined"] * 3]
    assert text_of(output, trained=False).count("failed 3 times") == 1


async def test_the_trajectorys_retries_are_limited():
    script = [f"A. {FAIL}", f"A. {FIXED}", f"B. {FAIL}", ANSWER]
    _, output, record = await run(script, rollback_max_retries=1)
    assert len(record["retries"]) == 1
    assert f"B. {FAIL}" in text_of(output, trained=True)


async def test_the_trajectorys_retry_tokens_are_limited():
    size = len(encode(f"A. {FIXED}")) + 1
    script = [f"A. {FAIL}", f"A. {FIXED}", f"B. {FAIL}", f"B. {FIXED}", ANSWER]
    server, output, record = await run(script, rollback_max_tokens=size + 10)
    assert server.params[3]["max_tokens"] == 10
    assert [r["result"] for r in record["retries"]] == ["overwritten", "no_room"]
    assert sum(r["generated"] for r in record["retries"]) <= size + 10
    assert f"B. {FAIL}{END}" in text_of(output, trained=True)


async def test_without_room_after_two_retries_the_error_says_so():
    """Step 7 also where it is the room that is used up."""
    size = len(encode(f"A. {FAIL}")) + 1
    script = [f"A. {FAIL}", f"A. {FAIL}", f"A. {FAIL}", f"A. {FIXED}", ANSWER]
    _, output, record = await run(script, rollback_max_tokens=2 * size + 3)
    assert [r["result"] for r in record["retries"]] == ["overwritten", "overwritten", "no_room"]
    assert "failed 4 times" in text_of(output, trained=False)


async def test_a_stuck_trajectory_ends_as_infrastructure():
    class Stuck(ScriptedServer):
        async def generate(self, *args, **kwargs):
            if self.contexts:
                await asyncio.Event().wait()
            return await super().generate(*args, **kwargs)

    config = make_config(*rollback(trajectory_deadline=0.05))
    with pytest.raises(InfrastructureError, match=r"trajectory_deadline=0\.05 s"):
        await run_loop(ToolAgentLoop, Stuck([f"A. {FAIL}"]), config)


async def test_a_timeout_of_our_own_is_not_the_deadline():
    class Broken(ScriptedServer):
        async def generate(self, *args, **kwargs):
            raise TimeoutError("ours")

    with pytest.raises(TimeoutError, match="ours"):
        await run_loop(ToolAgentLoop, Broken([]), make_config(*rollback()))


@pytest.mark.parametrize("extra", [f"{FAIL}\n{FAIL}", OTHER], ids=["two calls", "short"])
async def test_long_comparisons_leave_the_event_loop(monkeypatch, extra):
    import threading

    import verl_cleaner.rollout.retry as module

    threads = []

    def noted(old, new):
        threads.append(threading.current_thread())
        return 1.0

    monkeypatch.setattr(module, "similarity", noted)
    monkeypatch.setattr(module, "_LONG", 40)
    await run([f"A. {extra}\n{FAIL}" if extra != OTHER else f"A. {call('E')}", f"B. {OTHER}", ANSWER])
    assert (threads[0] is threading.main_thread()) == (extra == OTHER)
