"""Real optimizer steps of VeRL's actor with leaves, in one process and in two, against autograd on the bare model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from verl_cleaner.rollout.carried import MASK_FIELD, pack_leaves, unpack_leaves
from verl_cleaner.saar.leaf import Leaf
from verl_cleaner.training.credit.minibatch import COLUMNS, VALUES_FIELD, pack_values
from verl_cleaner.training.overwritten_loss import finish_metrics

TESTS = Path(__file__).parent
LOW, HIGH, DUAL, LR = 0.2, 0.2, 3.0, 0.1
"""VeRL's defaults for clipping; the learning rate of pair_steps."""
LEAVES = {0: [(3, 4), (14, 9)], 1: [(0, 5)], 3: [(8, 2), (17, 17)], 6: [(0, 30)]}
"""By row, (start, tokens): of two workers one has four and the other two in the first mini-batch; in the second only
one has any."""


def make_rows(model):
    """Eight trajectories of different lengths. Old log-probs are off by so much that some tokens are clipped."""
    generator = torch.Generator().manual_seed(0)

    def random(size):
        return torch.randint(0, 250, (size,), generator=generator)

    def columns(prefix, ids, advantage):
        with torch.no_grad():
            log_prob = log_probs(model, torch.cat([prefix, ids]))[len(prefix) - 1 :]
        return {
            "old_log_probs": log_prob + 0.3 * torch.randn(len(ids), generator=generator),
            "advantages": torch.full((len(ids),), advantage),
            "rollout_is_weights": 0.5 + torch.rand(len(ids), generator=generator),
            "ref_log_prob": log_prob + 0.3 * torch.randn(len(ids), generator=generator),
        }

    rows = []
    for number, (before, after) in enumerate([(7, 24), (12, 9), (3, 15), (9, 19), (20, 11), (5, 5), (8, 30), (6, 13)]):
        prompt, response = random(before), random(after)
        mask = torch.ones_like(response)
        mask[after // 2 : after // 2 + 2] = 0
        leaves = [Leaf(start, tuple(random(size).tolist())) for start, size in LEAVES.get(number, [])]
        values = [
            columns(torch.cat([prompt, response[: leaf.start]]), torch.tensor(leaf.ids), -0.7 - 0.1 * i)
            for i, leaf in enumerate(leaves)
        ]
        rows.append(
            {
                "prompts": prompt,
                "responses": response,
                "input_ids": torch.cat([prompt, response]),
                "position_ids": torch.arange(before + after),
                "response_mask": mask,
                "loss_mask": mask,
                MASK_FIELD: torch.zeros_like(mask),
                **columns(prompt, response, torch.randn((), generator=generator).item()),
                **pack_leaves(leaves),
                VALUES_FIELD: pack_values(values),
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
    command = [sys.executable, str(TESTS / "leaf_steps.py"), str(folder)]
    environment = os.environ | {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {world: torch.load(folder / f"steps{world}.pt", weights_only=False) for world in (1, 2)}


@pytest.fixture(scope="module")
def steps(start_steps):
    return start_steps[1]


def flat(gradient):
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)])


def assert_close(gradient, expected, tolerance=1e-5):
    assert (gradient - expected).norm() <= tolerance * expected.norm()


def reference(folder, *, batches=1, mode="token-mean", weighted=False, kl=0.0):
    """The gradient of each SGD step of PPO's clipped loss over trajectories and leaves, by autograd in double."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval().double()
    rows, gradients = torch.load(folder / "rows.pt"), []
    for batch in range(batches):
        size = len(rows) // batches
        sequences = []
        for row in rows[batch * size : (batch + 1) * size]:
            own = {name: row[name].double() for name in ("response_mask", *COLUMNS) if name in row}
            sequences.append((row["prompts"], row["responses"], own))
            leaves = unpack_leaves(row["failed_leaves"])
            table = row[VALUES_FIELD][1:].view(len(COLUMNS), -1).double()
            for leaf, part in zip(leaves, table.split([len(leaf.ids) for leaf in leaves], dim=1), strict=True):
                prefix = torch.cat([row["prompts"], row["responses"][: leaf.start]])
                sequences.append((prefix, torch.tensor(leaf.ids), dict(zip(COLUMNS, part, strict=True))))
        losses, masks = [], []
        for prefix, ids, own in sequences:
            now = log_probs(model, torch.cat([prefix, ids]))[len(prefix) - 1 :]
            ratio, advantage = (now - own["old_log_probs"]).exp(), own["advantages"]
            loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - LOW, 1 + HIGH))
            loss = torch.where(advantage < 0, torch.min(loss, -advantage * DUAL), loss)
            if weighted:
                loss = loss * own["rollout_is_weights"]
            difference = own["ref_log_prob"] - now
            losses.append(loss + kl * (difference.exp() - difference - 1))
            masks.append(own["response_mask"])
        pairs = list(zip(losses, masks, strict=True))
        if mode == "token-mean":
            total = sum((loss * mask).sum() for loss, mask in pairs) / sum(mask.sum() for mask in masks)
        else:
            divide = {"token-sum": lambda mask: 1, "token-mean": torch.sum, "token-sum-norm": lambda mask: 50}
            part = divide[mode.removeprefix("seq-mean-")]
            total = sum((loss * mask).sum() / part(mask) for loss, mask in pairs) / len(pairs)
        model.zero_grad()
        total.backward()
        gradients.append(flat({name: parameter.grad for name, parameter in model.named_parameters()}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= LR * parameter.grad
    return gradients


def assert_steps(step, expected):
    assert len(step["gradients"]) == len(expected)
    for gradient, wanted in zip(step["gradients"], expected, strict=True):
        assert_close(flat(gradient).double(), wanted)


def test_the_gradient_is_autograds(steps, folder):
    assert_steps(steps["leaves"], reference(folder))


def test_so_it_is_in_two_mini_batches_with_clipping(steps, folder):
    assert_steps(steps["mini-batches"], reference(folder, batches=2))
    clipped = leaf_values(steps["mini-batches"])["leaves/clipfrac"]
    assert 0 < clipped < 1


@pytest.mark.parametrize("mode", ["seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
def test_other_ways_to_aggregate(steps, folder, mode):
    assert_steps(steps[mode], reference(folder, mode=mode))


def test_sequences_and_mini_batches(steps, folder):
    name = "mini-batches, seq-mean-token-mean"
    assert_steps(steps[name], reference(folder, batches=2, mode="seq-mean-token-mean"))


def test_importance_weights(steps, folder):
    assert_steps(steps["importance weights"], reference(folder, weighted=True))


def test_kl_in_the_loss(steps, folder):
    assert_steps(steps["kl"], reference(folder, kl=0.3))


@pytest.mark.parametrize("name", ["no field", "no leaves"])
def test_without_leaves_the_weights_are_the_same_bit_for_bit(start_steps, name):
    for steps in start_steps.values():
        stock, step = steps["stock"]["weights"], steps[name]["weights"]
        assert all(torch.equal(stock[key], step[key]) for key in stock)
        assert not any(torch.equal(stock[key], steps["leaves"]["weights"][key]) for key in stock)
        assert set(steps[name]["metrics"]) == set(steps["stock"]["metrics"])


@pytest.mark.parametrize(
    "name",
    [
        *("micro-batches of 1", "micro-batches of 4", "dynamic", "dynamic, leaves over budget", "packed"),
        *("packed, dynamic", "loss scaling"),
    ],
)
def test_micro_batches_padding_and_loss_scaling_make_no_difference(steps, name):
    assert_close(flat(steps[name]["gradients"][0]), flat(steps["leaves"]["gradients"][0]))
    assert leaf_values(steps[name]) == pytest.approx(leaf_values(steps["leaves"]), rel=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        *("leaves", "dynamic", "dynamic, leaves over budget", "packed, dynamic", "mini-batches", "kl"),
        *("seq-mean-token-mean", "mini-batches, seq-mean-token-mean", "importance weights", "micro-batches of 4"),
    ],
)
def test_two_workers_make_no_difference(start_steps, name):
    """They have different numbers of leaves, and in the second mini-batch one has none."""
    pairs = zip(start_steps[2][name]["gradients"], start_steps[1][name]["gradients"], strict=True)
    for two, one in pairs:
        assert_close(flat(two), flat(one))
    assert leaf_values(start_steps[2][name]) == pytest.approx(leaf_values(start_steps[1][name]), rel=1e-3)


def test_an_adapter_is_trained_on_leaves_too(start_steps):
    """The same in a world of one and of two; only the adapter has a gradient."""
    one, two = (flat(start_steps[world]["adapter, leaves"]["gradients"][0]) for world in (1, 2))
    assert_close(two, one)
    assert (one - flat(start_steps[1]["adapter, no leaves"]["gradients"][0])).norm() > 0.1 * one.norm()
    assert all("lora" in name for name in start_steps[1]["adapter, leaves"]["gradients"][0])


def leaf_values(step):
    """KL and clip fraction on leaves, as the trainer logs them."""
    metrics = {f"actor/{key}": sum(value) for key, value in step["metrics"].items() if key.startswith("leaf_")}
    finish_metrics(metrics)
    return metrics
