"""Continuous batching on CPU against transformers and against reference distributions."""

import pytest
import torch
from tiny import tiny_model
from transformers import AutoModelForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from verl_cleaner.engine.cpu.batching import Batcher
from verl_cleaner.engine.cpu.sampling import Request, SamplingParams, sample

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [5, 6, 7], [30, 31]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path_factory.mktemp("model")), dtype=torch.float32)
    # Far enough from uniform for ties to be impossible.
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.mul_(3)
    yield loaded.eval()
    torch.set_num_threads(threads)


def run(model, requests, *, slots=8, max_length=64, arrive=None):
    """`arrive[i]`: the step before which request i is added; 0 for all by default."""
    batcher = Batcher(model, slots=slots, max_length=max_length)
    arrive = arrive or [0] * len(requests)
    step = 0
    while batcher.busy or step <= max(arrive):
        for request, when in zip(requests, arrive, strict=True):
            if when == step:
                batcher.add(request)
        batcher.step()
        step += 1
    assert all(request.finish_reason for request in requests)
    return [request.token_ids for request in requests]


def requests(prompts=PROMPTS, **params):
    return [Request(list(p), SamplingParams(**{"max_tokens": 12, "seed": i, **params})) for i, p in enumerate(prompts)]


def greedy(model, prompt, tokens):
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=None
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("arrive", [[0, 0, 0, 0, 0], [0, 3, 1, 5, 20]])
def test_greedy_equals_generate(model, slots, arrive):
    """With fewer slots than requests, and with requests that join a running batch and leave it."""
    lengths = [3, 12, 7, 1, 9]
    asked = [
        Request(list(p), SamplingParams(max_tokens=n, temperature=0)) for p, n in zip(PROMPTS, lengths, strict=True)
    ]
    outputs = run(model, asked, slots=slots, arrive=arrive)
    assert outputs == [greedy(model, prompt, n) for prompt, n in zip(PROMPTS, lengths, strict=True)]


def test_tokens_do_not_depend_on_the_neighbours(model):
    together = run(model, requests(top_k=50))
    assert len({tuple(tokens) for tokens in together}) == len(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        alone = Request(list(prompt), SamplingParams(max_tokens=12, top_k=50, seed=i))
        assert run(model, [alone]) == [together[i]]
    assert run(model, requests(top_k=50), slots=2, arrive=[2, 0, 1, 4, 3]) == together


def test_the_same_seed_gives_the_same_tokens_and_another_does_not(model):
    assert run(model, requests()) == run(model, requests())
    first, second = run(model, requests([[5]] * 2, seed=3))
    assert first == second
    assert run(model, requests([[5]], seed=4)) != [first]


def test_logprobs_are_those_of_a_forward_pass(model):
    asked = requests(temperature=0.7)
    run(model, asked, slots=3)
    for request in asked:
        logits = model(torch.tensor([request.prompt_ids + request.token_ids])).logits[0].float() / 0.7
        logprobs = logits.log_softmax(-1)
        start = len(request.prompt_ids) - 1
        for i, (token, logprob) in enumerate(zip(request.token_ids, request.logprobs, strict=True)):
            assert logprob == pytest.approx(logprobs[start + i, token].item(), abs=1e-5)


def test_prompt_logprobs_are_those_of_a_forward_pass(model):
    asked = requests(prompt_logprobs=True, max_tokens=1)
    run(model, asked)
    for request in asked:
        logprobs = model(torch.tensor([request.prompt_ids])).logits[0].float().log_softmax(-1)
        expected = [logprobs[i, token].item() for i, token in enumerate(request.prompt_ids[1:])]
        assert request.prompt_logprobs == pytest.approx(expected, abs=1e-5)


def test_finish_reasons(model):
    (sampled,) = run(model, requests([[5, 6]], temperature=0))
    stop = Request([5, 6], SamplingParams(max_tokens=12, temperature=0, stop_token_ids=frozenset({sampled[4]})))
    length = Request([5, 6], SamplingParams(max_tokens=3, temperature=0))
    full = Request([5, 6], SamplingParams(max_tokens=12, temperature=0))
    assert run(model, [stop, length]) == [sampled[: sampled.index(sampled[4]) + 1], sampled[:3]]
    assert (stop.finish_reason, length.finish_reason) == ("stop", "length")
    assert run(model, [full], max_length=7) == [sampled[:5]]
    assert full.finish_reason == "length"


def test_abort_gives_back_what_there_is_and_leaves_nothing(model):
    batcher = Batcher(model, slots=2, max_length=64)
    asked = requests(PROMPTS[:3], temperature=0)
    for request in asked:
        batcher.add(request)
    batcher.step()
    assert {id(request) for request in batcher.abort()} == {id(request) for request in asked}
    assert [len(request.token_ids) for request in asked] == [2, 2, 0]
    assert all(request.finish_reason == "abort" for request in asked)
    assert not batcher.busy
    # The slots are clean for the next ones.
    again = requests(PROMPTS[:2], temperature=0)
    for request in again:
        batcher.add(request)
    while batcher.busy:
        batcher.step()
    assert [request.token_ids for request in again] == [greedy(model, prompt, 12) for prompt in PROMPTS[:2]]


# ---- the distribution ------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0])
SEEN = [1, 4]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 3},
        {"top_p": 0.6},
        {"top_k": 6, "top_p": 0.8, "temperature": 1.3},
        {"top_k": 1},
        {"top_p": 1e-6},
    ],
)
def test_the_distribution_is_exact(params):
    """The reported log-probs equal a reference to 1e-6, and 8,000 draws agree with it within five standard errors."""
    draws = 8_000
    processors = LogitsProcessorList()
    processors.append(TemperatureLogitsWarper(params.get("temperature", 1.0)))
    if "top_k" in params:
        processors.append(TopKLogitsWarper(params["top_k"]))
    if "top_p" in params:
        processors.append(TopPLogitsWarper(params["top_p"]))
    reference = processors(torch.tensor([SEEN]), LOGITS[None].clone())[0].softmax(-1)

    asked = []
    for seed in range(draws):
        request = Request(list(SEEN), SamplingParams(max_tokens=1, seed=seed, **params))
        request.generator.manual_seed(seed)
        asked.append(request)
    tokens, logprobs = sample(LOGITS.repeat(draws, 1), asked)
    counts = torch.bincount(torch.tensor(tokens), minlength=len(LOGITS)) / draws
    error = (reference * (1 - reference) / draws).sqrt()
    assert ((counts - reference).abs() <= 5 * error).all(), (counts, reference)
    assert torch.tensor(logprobs) == pytest.approx(reference[tokens].log(), abs=1e-6)


def test_rows_with_different_parameters_do_not_disturb_each_other():
    mixed = [
        Request([1], SamplingParams(max_tokens=1, temperature=0)),
        Request([1], SamplingParams(max_tokens=1, top_k=2, seed=1)),
    ]
    tokens, logprobs = sample(LOGITS.repeat(2, 1), mixed)
    assert tokens[0] == 0
    assert tokens[1] in (0, 1)
    assert logprobs[0] == pytest.approx(LOGITS.log_softmax(-1)[0].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"temperature": -1}, "temperature must be >= 0, got -1"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\], got 0"),
        ({"top_k": 0}, "top_k must be -1"),
        ({"max_tokens": 0}, "max_tokens must be >= 1"),
    ],
)
def test_bad_parameters(params, words):
    with pytest.raises(ValueError, match=words):
        SamplingParams(**{"max_tokens": 1, **params})


def test_bad_prompts(model):
    batcher = Batcher(model, slots=1, max_length=4)
    with pytest.raises(ValueError, match="prompt_ids is empty"):
        batcher.add(Request([], SamplingParams(max_tokens=1)))
    with pytest.raises(ValueError, match="the prompt has 4 tokens, expected fewer than max_model_len=4"):
        batcher.add(Request([1, 2, 3, 4], SamplingParams(max_tokens=1)))
