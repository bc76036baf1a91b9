"""The rewards inside VeRL's reward managers: which length costs what, and that every source gives the same keys."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.trainer.ppo.reward import get_custom_reward_fn

MAX, BUFFER = 20480, 4096


class Decoder:
    def __init__(self, text):
        self.text = text

    def decode(self, ids, skip_special_tokens):
        return self.text


def manager(name, text, **reward_kwargs):
    """As the reward worker builds it from a large recipe's settings."""
    function = {"path": "pkg://verl_cleaner.reward.router", "name": "compute_score", "reward_kwargs": reward_kwargs}
    buffer = {"enable": True, "len": BUFFER, "penalty_factor": 1.0, "log": False}
    shaping = {"max_resp_len": MAX, "overlong_buffer_cfg": buffer}
    config = OmegaConf.create({"reward": {"custom_reward_function": function, "reward_kwargs": shaping}})
    return get_reward_manager_cls(name)(
        config=config, tokenizer=Decoder(text), compute_score=get_custom_reward_fn(config)
    )


def run(name, *, text, source="math_dapo", truth="42", length=10, extra=None, **reward_kwargs):
    async def score():
        it = manager(name, text, **reward_kwargs)
        it.loop = asyncio.get_running_loop()
        ids = torch.zeros(1, length, dtype=torch.long)
        batch = TensorDict(
            {"responses": ids, "attention_mask": torch.ones(1, length + 2, dtype=torch.long)}, batch_size=1
        )
        row = {"data_source": source, "reward_model": {"ground_truth": truth}, "extra_info": extra or {"index": 0}}
        return await it.run_single(
            DataProto(batch, {key: np.array([value], dtype=object) for key, value in row.items()})
        )

    return asyncio.run(score())


@pytest.mark.parametrize(
    ("length", "penalty"),
    [
        (10, 0),
        (MAX - BUFFER, 0),
        (MAX - BUFFER + 1, -1 / BUFFER),
        (MAX - BUFFER // 2, -0.5),
        (MAX, -1),
    ],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer")
@pytest.mark.parametrize(("answer", "score"), [("42", 1), ("41", -1)])
def test_overlong_responses_lose_up_to_a_point(length, penalty, answer, score):
    result = run("dapo", text=rf"\boxed{{{answer}}}", length=length)
    assert float(result["reward_score"]) == pytest.approx(score + penalty)
    info = result["reward_extra_info"]
    # What is reported beside it stays the answer's own.
    assert (info["score"], info["acc"]) == (score, float(score > 0))
    output = AgentLoopOutput(prompt_ids=[1], response_ids=[1, 2], response_mask=[1, 1], metrics=AgentLoopMetrics())
    output.reward_score = result["reward_score"]
    assert output.as_dict()["rm_scores"].tolist() == pytest.approx([0, score + penalty])


def test_every_source_has_the_same_keys():
    code = json.dumps({"inputs": ["1"], "outputs": ["1"]})
    entry = {"index": 0, "entry": '{"answer": "1", "metadata": {}}'}
    rows = [
        SimpleNamespace(source="math_dapo", truth="1", extra=None),
        SimpleNamespace(source="mega-science", truth="1", extra=None),
        SimpleNamespace(source="gpqa_diamond", truth="A", extra=None),
        SimpleNamespace(source="LiveCodeBench_v6", truth=code, extra=None),
        SimpleNamespace(source="reasoning_gym/gcd", truth="1", extra=entry),
    ]
    for name in ("naive", "dapo"):
        infos = [run(name, text="no idea", **vars(row))["reward_extra_info"] for row in rows]
        assert all(list(info) == list(infos[0]) for info in infos)
        assert [info["score"] for info in infos] == [-1, -1, -1, -1, 0]


def test_options_reach_the_function():
    assert run("dapo", text=r"\boxed{1,000}", truth="1000", math_verify=True)["reward_extra_info"]["verified"] == 1.0


def test_an_outage_leaves_the_manager_as_what_it_is(monkeypatch):
    from verl_cleaner.reward import judging
    from verl_cleaner.saar.outcome import InfrastructureError

    monkeypatch.setattr(judging, "DEADLINE", 0.3)
    code = json.dumps({"inputs": ["1"], "outputs": ["1"]})
    with pytest.raises(InfrastructureError, match="gave no verdict"):
        run(
            "dapo",
            text="```python\nprint(1)\n```",
            source="LiveCodeBench_v6",
            truth=code,
            judge_url="http://127.0.0.1:9",
        )
