"""The object of a turn: what it knows after the turn was repaired, or was not."""

import pytest
from loop_harness import ScriptedServer, call, encode, make_config, make_loop, rollback

from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop

FAIL, WORSE, FIXED = (call(f"{kind} x is not set") for kind in ("NameError", "TypeError", "ok"))


async def turns_of(script, **values):
    """The turns of a trajectory in order, and the server."""
    server, turns = ScriptedServer(script), []
    loop = make_loop(ToolAgentLoop, server, make_config(*rollback(**values)))
    process = loop._handle_processing_tools_state

    async def noted(agent_data):
        turns.append(loop.turn)
        return await process(agent_data)

    loop._handle_processing_tools_state = noted
    message = {"role": "user", "content": "solve it"}
    await loop.run({"temperature": 1.0}, raw_prompt=[message], global_steps=1, index=0, session_id=0)
    return turns, server


@pytest.mark.parametrize("mode", ["overwrite", "keep", "void"])
async def test_the_first_failed_attempt_is_what_the_policy_sampled_in_the_clean_context(mode):
    """However often the turn is retried afterwards, and whatever becomes of it."""
    script = [f"A. {FIXED}", f"B. {FAIL}", f"C. {WORSE}", f"D. {FIXED}", "Done."]
    (first, second), server = await turns_of(script, rollback_mode=mode)
    assert not first.attempts[0].failed
    failed = second.attempts[0]
    assert failed.failed
    ids = encode(f"B. {FAIL}<|im_end|>")
    assert list(failed.tokens.ids) == ids
    assert failed.tokens.boundary == len("B. ")
    assert [server.sampled[logprob] for logprob in failed.tokens.logprobs] == ids
    assert failed.failures == ("NameError",)
    # Its context is the one it was sampled in.
    assert [*server.contexts[1], *ids] == failed.after.prompt_ids
    assert len(second.attempts) == 3
    assert second.recovered


async def test_a_turn_that_stays_failed_keeps_its_first_attempt():
    (turn,), _ = await turns_of([f"B. {FAIL}", "I cannot."])
    assert turn.attempts == [turn.attempt]
    assert turn.attempt.failed
    assert (turn.result, turn.recovered) == ("no_call", False)
