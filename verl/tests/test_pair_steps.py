"""Real optimizer steps of VeRL's actor with pairs, in one process and in two, against autograd on the bare model."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pair_steps import LOOSE, NO_PAIRS, REF_SCALE
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from verl_cleaner.rollout.carried import PAIRS_FIELD, pack, unpack
from verl_cleaner.saar.pair import Pair
from verl_cleaner.training.pairs import step as pair_step
from verl_cleaner.training.pairs.grant import GRANTED_FIELD
from verl_cleaner.training.pairs.step import finish_dpo_metrics

TESTS = Path(__file__).parent


def make_rows(model):
    """Eight trajectories of different lengths; five pairs in the first half, so that of two workers one has none."""
    generator = torch.Generator().manual_seed(0)

    def random(size):
        return torch.randint(0, 250, (size,), generator=generator)

    rows = []
    pairs = {0: [(3, 9, 4), (14, 20, 9)], 1: [(0, 5, 5)], 3: [(8, 15, 2), (17, 19, 17)]}
    for number, (before, after) in enumerate([(7, 24), (12, 9), (3, 15), (9, 19), (20, 11), (5, 5), (8, 30), (6, 13)]):
        prompt, response = random(before), random(after)
        own = [Pair(start, end, tuple(random(size).tolist())) for start, end, size in pairs.get(number, [])]
        ids = torch.cat([prompt, response])
        mask = torch.ones_like(response)
        mask[after // 2 : after // 2 + 2] = 0
        with torch.no_grad():
            old = log_probs(model, ids)[before - 1 :]
        rows.append(
            {
                "prompts": prompt,
                "responses": response,
                "input_ids": ids,
                "position_ids": torch.arange(len(ids)),
                "response_mask": mask,
                "loss_mask": mask,
                "old_log_probs": old,
                "advantages": mask * torch.randn((), generator=generator),
                PAIRS_FIELD: pack(own),
                GRANTED_FIELD: torch.tensor(len(own)),
            }
        )
    return rows


def log_probs(model, ids):
    return model(ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None]).squeeze(-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    model = AutoModelForCausalLM.from_pretrained(tiny_model(folder / "model"))
    # Weights large enough for predictions to depend on the context.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(8)
    model.save_pretrained(folder / "model")
    torch.save(make_rows(model.eval()), folder / "rows.pt")
    return folder


@pytest.fixture(scope="module")
def start_steps(folder):
    """{world: steps}."""
    command = [sys.executable, str(TESTS / "pair_steps.py"), str(folder)]
    environment = os.environ | {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {world: torch.load(folder / f"steps{world}.pt", weights_only=False) for world in (1, 2)}


@pytest.fixture(scope="module")
def steps(start_steps):
    return start_steps[1]


@pytest.fixture
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "model").eval()


def flat(gradient):
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)])


def the_gradient(step):
    (gradient,) = step["gradients"]
    return flat(gradient)


def dpo(step):
    """The trainer's metrics of a step."""
    metrics = {f"actor/{key}": sum(v) / len(v) for key, v in step["metrics"].items() if key.startswith("dpo_")}
    finish_dpo_metrics(metrics)
    return metrics


def reference(model, rows, *, beta, granted=None, with_reference=False):
    """(gradient of the pairs' loss by autograd, margins), the whole of it in double precision."""
    model = model.double()
    other = type(model)(model.config).double().eval()
    other.load_state_dict({name: REF_SCALE * value for name, value in model.state_dict().items()})
    margins = []
    for row, count in zip(rows, granted or [9] * len(rows), strict=True):
        for pair in unpack(row[PAIRS_FIELD])[:count]:
            prefix = torch.cat([row["prompts"], row["responses"][: pair.start]])
            calls = row["responses"][pair.start : pair.end], torch.tensor(pair.failed)

            def mean(policy, call, prefix=prefix):
                return log_probs(policy, torch.cat([prefix, call]))[-len(call) :].mean()

            margin = mean(model, calls[0]) - mean(model, calls[1])
            if with_reference:
                margin = margin - (mean(other, calls[0]) - mean(other, calls[1])).detach()
            margins.append(margin)
    margins = torch.stack(margins)
    loss = -F.logsigmoid(beta * margins).mean()
    loss.backward()
    return flat({name: parameter.grad for name, parameter in model.named_parameters()}), margins.detach(), loss.item()


def assert_close(gradient, expected, tolerance=1e-4):
    assert (gradient - expected).norm() <= tolerance * expected.norm()


def test_the_gradient_is_autograds(steps, model, folder):
    rows = torch.load(folder / "rows.pt")
    pairs, margins, loss = reference(model, rows, beta=LOOSE.dpo_beta)
    policy = the_gradient(steps["stock"]).double()
    assert_close(the_gradient(steps["pairs"]) - policy, pairs)
    metrics = dpo(steps["pairs"])
    assert metrics["dpo/scale"] == 1
    assert metrics["dpo/gradient_share"] == pytest.approx((pairs.norm() / policy.norm()).item(), rel=1e-4)
    assert metrics["dpo/margin"] == pytest.approx(margins.mean().item(), rel=1e-4)
    assert metrics["dpo/pair_accuracy"] == pytest.approx((margins > 0).double().mean().item())
    assert 0 < metrics["dpo/pair_accuracy"] < 1
    assert metrics["dpo/loss"] == pytest.approx(loss, rel=1e-4)


def test_the_gradient_against_a_reference_policy(steps, model, folder):
    rows = torch.load(folder / "rows.pt")
    pairs, margins, _ = reference(model, rows, beta=LOOSE.dpo_beta, with_reference=True)
    assert_close(the_gradient(steps["reference"]) - the_gradient(steps["stock"]).double(), pairs)
    assert dpo(steps["reference"])["dpo/margin"] == pytest.approx(margins.mean().item(), rel=1e-3)
    assert dpo(steps["reference"])["dpo/margin"] != pytest.approx(dpo(steps["pairs"])["dpo/margin"], rel=0.1)


def test_an_adapters_reference_is_the_model_without_it(start_steps):
    for steps in start_steps.values():
        base, adapted = dpo(steps["pairs"])["dpo/margin"], dpo(steps["adapter"])["dpo/margin"]
        assert adapted != pytest.approx(base, abs=1e-2)
        assert dpo(steps["adapter, reference"])["dpo/margin"] == pytest.approx(adapted - base, abs=1e-4)
        assert dpo(steps["adapter, reference"])["dpo/gradient_share"] > 0


def test_only_granted_pairs_count(steps, model, folder):
    rows = torch.load(folder / "rows.pt")
    pairs, _, _ = reference(model, rows, beta=LOOSE.dpo_beta, granted=[1, *NO_PAIRS[1:]])
    policy = the_gradient(steps["stock"]).double()
    scale = min(1.0, (policy.norm() / pairs.norm()).item())
    assert_close(the_gradient(steps["one pair"]) - policy, scale * pairs)


def test_the_bound(steps):
    policy, both = the_gradient(steps["stock"]), the_gradient(steps["tight"])
    assert (both - policy).norm().item() == pytest.approx(0.01 * policy.norm().item(), rel=1e-3)
    assert dpo(steps["tight"])["dpo/scale"] < 0.5
    assert dpo(steps["tight"])["dpo/gradient_share"] == pytest.approx(0.01)
    # Smaller, not turned.
    loose = the_gradient(steps["pairs"]) - policy
    assert F.cosine_similarity(both - policy, loose, dim=0).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["stock, pairs on board", "no pairs"])
def test_without_pairs_the_weights_are_the_same_bit_for_bit(start_steps, name):
    for steps in start_steps.values():
        stock, step = steps["stock"]["weights"], steps[name]["weights"]
        assert all(torch.equal(stock[key], step[key]) for key in stock)
        assert not any(torch.equal(stock[key], steps["pairs"]["weights"][key]) for key in stock)
        assert set(steps[name]["metrics"]) == set(steps["stock"]["metrics"])


@pytest.mark.parametrize(
    "name",
    [
        *("micro-batches of 1", "micro-batches of 2", "dynamic", "dynamic, pairs over budget", "packed"),
        *("packed, dynamic", "loss scaling"),
    ],
)
def test_micro_batches_padding_and_loss_scaling_make_no_difference(steps, name):
    assert_close(the_gradient(steps[name]), the_gradient(steps["pairs"]))
    assert dpo(steps[name]) == pytest.approx(dpo(steps["pairs"]), rel=1e-4)


@pytest.mark.parametrize("name", ["pairs", "dynamic", "packed, dynamic", "tight", "reference", "one pair"])
def test_two_workers_make_no_difference(start_steps, name):
    """All pairs are with one of them, which makes the mean a global one and the other's rows fillers."""
    assert_close(the_gradient(start_steps[2][name]), the_gradient(start_steps[1][name]))
    assert dpo(start_steps[2][name]) == pytest.approx(dpo(start_steps[1][name]), rel=1e-4)


def test_each_mini_batch_has_its_own_pairs(steps):
    """The second one has none, and is not counted."""
    step = steps["mini-batches"]
    assert len(step["gradients"]) == 2
    assert step["metrics"]["dpo_pairs"] == [5.0]
    assert len(step["metrics"]["grad_norm"]) == 2


def test_the_pairs_alone_raise_the_repaired_call_over_the_failed_one(steps):
    margins = torch.tensor(steps["alone"])
    assert margins.shape[1] == 5
    assert margins[0].min() < 0
    assert (margins[-1] > margins[0]).all()
    assert (margins[-1] > 0).all()


@pytest.mark.parametrize("overflow", ["policy", "pairs", "neither"])
def test_an_overflow_stays_one_and_has_no_scale(monkeypatch, overflow):
    """Of a policy's gradient 2 and a pairs' gradient 4, or infinity."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: None)
    monkeypatch.setattr(pair_step, "get_device_id", lambda: "cpu")
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.tensor([math.inf if overflow == "policy" else 2.0])

    class Engine:
        optimizer = torch.optim.SGD([weight])

        def forward_backward_batch(self, *_):
            weight.grad = torch.tensor([math.inf if overflow == "pairs" else 4.0])

    scale, share = pair_step.add_pair_gradient(Engine(), {}, torch.ones(2), max_ratio=0.5)
    if overflow == "neither":
        assert (scale, share, weight.grad.item()) == (0.25, 0.5, 3.0)
    else:
        assert math.isnan(scale)
        assert math.isnan(share)
        assert math.isinf(weight.grad.item())


def test_without_a_scale_the_other_metrics_remain():
    metrics = {f"actor/dpo_{name}": 1.0 for name in ("pairs", "correct", "margin", "loss")}
    finish_dpo_metrics(metrics)
    assert sorted(metrics) == ["dpo/loss", "dpo/margin", "dpo/pair_accuracy"]


def test_no_metrics_without_pairs():
    metrics = {"actor/loss": 1.0}
    finish_dpo_metrics(metrics)
    assert metrics == {"actor/loss": 1.0}
