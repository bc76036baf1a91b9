"""The CPU rollout server behind VeRL's interface, without Ray."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from verl_cleaner.engine.cpu.mailbox import Mailbox
from verl_cleaner.engine.cpu.rollout import CpuServer

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def server(folder):
    config = SimpleNamespace(
        max_model_len=None, prompt_length=8, response_length=24, max_num_seqs=4, seed=1, ignore_eos=False
    )
    model = SimpleNamespace(
        hf_config=AutoConfig.from_pretrained(folder),
        generation_config=None,
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )
    made = CpuServer(config, model)
    await made.load_weights(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict(), 0)
    return made


async def test_a_generation(server):
    output = await server.generate([5, 6], {**SAMPLING, "logprobs": True, "max_tokens": 5}, "r1")
    assert 1 <= len(output.token_ids) <= 5
    assert len(output.log_probs) == len(output.token_ids)
    assert output.extra_fields == {"global_steps": 0}
    assert output.stop_reason == "completed"
    assert (await server.generate([5, 6], {**SAMPLING, "logprobs": False, "max_tokens": 5}, "r2")).log_probs is None


async def test_requests_run_together_and_each_gets_its_own(server):
    params = {**SAMPLING, "max_tokens": 16, "temperature": 0}
    prompts = [[i, i + 1] for i in range(10)]
    alone = [(await server.generate(prompt, dict(params), "r")).token_ids for prompt in prompts]
    together = await asyncio.gather(*(server.generate(prompt, dict(params), "r") for prompt in prompts))
    assert [output.token_ids for output in together] == alone


async def test_a_seed_makes_a_request_repeatable(server):
    async def tokens(**seed):
        return (await server.generate([5], {**SAMPLING, "max_tokens": 16, **seed}, "r")).token_ids

    assert await tokens(seed=7) == await tokens(seed=7)
    assert await tokens(seed=7) != await tokens(seed=8)
    assert await tokens() != await tokens()


async def test_the_default_length_is_what_prompt_and_response_leave(server):
    server.eos_token_ids = frozenset()
    assert len((await server.generate([5] * 3, dict(SAMPLING), "r")).token_ids) == 24
    assert len((await server.generate([5] * 20, dict(SAMPLING), "r")).token_ids) == 12


async def test_it_stops_at_the_end_token_unless_told_otherwise(server):
    params = {**SAMPLING, "temperature": 0, "max_tokens": 8}
    free = (await server.generate([5, 6], {**params, "ignore_eos": True}, "r")).token_ids
    assert len(free) == 8
    server.eos_token_ids = frozenset({free[2]})
    assert (await server.generate([5, 6], dict(params), "r")).token_ids == free[: free.index(free[2]) + 1]


async def test_prompt_logprobs_in_vllms_form(server):
    output = await server.generate([5, 6, 7], {**SAMPLING, "max_tokens": 1, "prompt_logprobs": 0}, "r")
    logprobs = server.batcher.model(torch.tensor([[5, 6, 7]])).logits[0].log_softmax(-1)
    assert output.extra_fields["prompt_ids"] == [[6], [7], [0]]
    first, second, dummy = output.extra_fields["prompt_logprobs"]
    assert [*first, *second] == pytest.approx([logprobs[0, 6].item(), logprobs[1, 7].item()], abs=1e-5)
    assert dummy == [0.0]


@pytest.mark.parametrize(
    ("prompt", "params", "error"),
    [
        ([5] * 40, {}, "the prompt has 40 tokens, expected fewer than max_model_len=32"),
        ([5], {"prompt_logprobs": 5}, "prompt_logprobs must be 0"),
        ([5], {"top_p": 0}, "top_p must be in"),
    ],
)
async def test_bad_requests_fail_alone(server, prompt, params, error):
    with pytest.raises(ValueError, match=error):
        await server.generate(prompt, {**SAMPLING, **params}, "r")
    assert (await server.generate([5], {**SAMPLING, "max_tokens": 1}, "r")).token_ids


async def test_weights_take_effect_and_must_fit(server):
    params = {**SAMPLING, "temperature": 0, "max_tokens": 8}
    before = (await server.generate([5, 6], dict(params), "r")).token_ids
    state = {name: -tensor for name, tensor in server.batcher.model.state_dict().items()}
    await server.load_weights(state, 3)
    output = await server.generate([5, 6], dict(params), "r")
    assert output.token_ids != before
    assert output.extra_fields["global_steps"] == 3
    with pytest.raises(ValueError, match=r"unexpected|got \['extra'\]"):
        await server.load_weights({**state, "extra": torch.zeros(1)}, 4)
    del state["model.norm.weight"]
    with pytest.raises(ValueError, match=r"missing \['model.norm.weight'\]"):
        await server.load_weights(state, 4)


async def test_abort_while_a_step_computes(server):
    """The running and the waiting come back; later requests wait until generation is resumed."""
    server.eos_token_ids = frozenset()
    started = asyncio.Event()
    step, loop = server.batcher.step, asyncio.get_running_loop()

    def announced():
        loop.call_soon_threadsafe(started.set)
        return step()

    server.batcher.step = announced
    asked = [asyncio.create_task(server.generate([i], {**SAMPLING, "max_tokens": 24}, "r")) for i in range(6)]
    await started.wait()
    await server.abort_all_requests()
    outputs = await asyncio.gather(*asked)
    assert {output.stop_reason for output in outputs} == {"aborted"}
    assert not server.batcher.busy

    late = asyncio.create_task(server.generate([5], {**SAMPLING, "max_tokens": 3}, "r"))
    await asyncio.sleep(0)
    assert not late.done()
    await server.resume_generation()
    assert len((await late).token_ids) == 3


async def test_an_aborted_request_goes_on_with_the_tokens_it_would_have_had(server):
    server.eos_token_ids = frozenset()
    params = {**SAMPLING, "max_tokens": 20, "seed": 3}
    whole = (await server.generate([5, 6], dict(params), "r")).token_ids
    started, step, loop = asyncio.Event(), server.batcher.step, asyncio.get_running_loop()

    def announced():
        finished = step()
        loop.call_soon_threadsafe(started.set)
        return finished

    server.batcher.step = announced
    asked = asyncio.create_task(server.generate([5, 6], dict(params), "r"))
    await started.wait()
    await server.abort_all_requests()
    first = await asked
    assert first.stop_reason == "aborted"
    assert 1 <= len(first.token_ids) < 20
    await server.resume_generation()
    rest = {**params, "max_tokens": 20 - len(first.token_ids)}
    second = await server.generate([5, 6, *first.token_ids], rest, "r")
    assert first.token_ids + second.token_ids == whole


async def test_weights_travel_by_rounds():
    mailbox = Mailbox()
    early = asyncio.create_task(mailbox.get(2))
    await mailbox.put(1, "old")
    assert await mailbox.get(1) == "old"
    await asyncio.sleep(0)
    assert not early.done()
    await mailbox.put(2, "new")
    assert await early == "new"


async def test_a_failing_step_fails_its_requests(server):
    def broken():
        raise RuntimeError("out of order")

    server.batcher.step = broken
    with pytest.raises(RuntimeError, match="out of order"):
        await server.generate([5], {**SAMPLING, "max_tokens": 3}, "r")
