"""A rollout gives the tokens, masks, log-probs, requests, records and metrics that it gave before."""

import json

import pytest
from loop_harness import TOKENIZER
from rollout_cases import CASES, FILE, RANDOM_ROLLOUTS, digest, run_case, run_random

BEFORE = json.loads(FILE.read_text())


def test_the_tokenizer_is_the_same():
    assert digest(sorted(TOKENIZER.get_vocab())) == BEFORE["tokenizer"]


@pytest.mark.parametrize("name", CASES)
async def test_scripted_rollouts(name):
    assert await run_case(CASES[name]) == BEFORE["cases"][name]


@pytest.mark.parametrize("first", range(0, RANDOM_ROLLOUTS, 50))
async def test_random_rollouts(first):
    numbers = range(first, first + 50)
    assert [digest(await run_random(number)) for number in numbers] == BEFORE["random"][first : first + 50]
