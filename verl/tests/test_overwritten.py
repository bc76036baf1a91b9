"""The mask of overwritten tokens and what the loss says about them."""

import pytest
import torch
from loop_harness import TOKENIZER, ScriptedServer, call, make_config, rollback, run_loop
from tensordict import TensorDict
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss

from verl_cleaner.rollout.carried import MASK_FIELD
from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop
from verl_cleaner.training.overwritten_loss import finish_metrics, marked_loss, token_sums

FAIL, FIXED, OTHER = call("NameError x is not defined"), call("ok NameError x is 1"), call("ok 42")


async def test_the_mask_marks_the_overwritten_tokens():
    server = ScriptedServer([f"A. {FAIL}", f"B. {FIXED}", f"C. {OTHER}", f"D. {FAIL}", f"E. {OTHER}", "Done."])
    output, _ = await run_loop(ToolAgentLoop, server, make_config(*rollback()))
    fields = output.as_dict()
    mask = fields[MASK_FIELD]
    assert mask.shape == fields["response_mask"].shape
    marked = TOKENIZER.decode(fields["responses"][mask.bool()].tolist())
    assert marked == f"{FIXED}<|im_end|>E. {OTHER}<|im_end|>"
    assert "spans" not in fields


async def test_no_mask_without_rollback():
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(["Done."]), make_config())
    assert MASK_FIELD not in output.as_dict()
    never = make_config(*rollback(rollback_probability=0))
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(["Done."]), never)
    assert output.as_dict()[MASK_FIELD].sum() == 0


def test_sums_by_hand():
    """Probability ratios 1.25, 1.65, 0.78, 1.65, of leaves 0.78 and 1.11, and one that is not trained.

    Clipped above 1.28 and below 0.8.
    """
    old, new = torch.zeros(1, 7), torch.tensor([[0.22, 0.5, -0.25, 0.5, -0.25, 0.1, 9.0]])
    sums = token_sums(
        new,
        old,
        torch.tensor([[1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0]]),
        trained=torch.tensor([[True, True, True, True, True, True, False]]),
        marks=torch.tensor([[0, 1, 1, 0, 2, 2, 1]]),
        clip=(0.2, 0.28),
    )
    assert sums == pytest.approx(
        {
            "overwritten_tokens": 2, "overwritten_kl": -0.25, "overwritten_clipfrac": 2,
            "sampled_tokens": 2, "sampled_kl": -0.72, "sampled_clipfrac": 0,
            "leaf_tokens": 2, "leaf_kl": 0.15, "leaf_clipfrac": 1,
        }
    )  # fmt: skip
    metrics = {f"actor/{key}": value for key, value in sums.items()} | {"actor/overwritten_tokens": 0}
    finish_metrics(metrics)
    assert metrics == pytest.approx(
        {"actor/sampled_kl": -0.36, "actor/sampled_clipfrac": 0.0, "leaves/kl": 0.075, "leaves/clipfrac": 0.5}
    )


def test_the_loss_is_verls():
    """Same loss and metrics, and the kinds of tokens together give VeRL's KL and clip fraction."""
    torch.manual_seed(0)
    config = omega_conf_to_dataclass(
        make_config("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2").actor_rollout_ref.actor
    )
    prompts, lengths = [3, 2], [4, 6]

    def nested(rows):
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    def random():
        return nested([torch.randn(n) for n in lengths])

    data = TensorDict(
        {
            "prompts": nested([torch.zeros(n, dtype=torch.long) for n in prompts]),
            "responses": nested([torch.zeros(n, dtype=torch.long) for n in lengths]),
            "response_mask": nested([torch.ones(n, dtype=torch.long) for n in lengths]),
            # The first one's is too long, as that of a padding row, which VeRL copies from another row.
            MASK_FIELD: nested([torch.arange(n) % 2 for n in (9, lengths[1])]),
            "old_log_probs": random(),
            "advantages": random(),
        },
        batch_size=2,
    )
    for key, value in {"dp_size": 1, "batch_num_tokens": None, "global_batch_size": None}.items():
        data.set_non_tensor(key, value)
    log_probs = torch.randn(sum(prompts) + sum(lengths), requires_grad=True)
    stock_loss, stock = ppo_loss(config, {"log_probs": log_probs}, data)
    loss, metrics = marked_loss(config, {"log_probs": log_probs}, data)
    assert loss == stock_loss
    assert set(stock) < set(metrics)
    assert set(marked_loss(config, {"log_probs": log_probs}, data.exclude(MASK_FIELD))[1]) == set(stock)
    value = {key: metric.aggregate() for key, metric in metrics.items()}
    assert value["overwritten_tokens"] + value["sampled_tokens"] == sum(lengths)
    for name, theirs in (("kl", "actor/ppo_kl"), ("clipfrac", "actor/pg_clipfrac")):
        together = value[f"overwritten_{name}"] + value[f"sampled_{name}"]
        assert together / sum(lengths) == pytest.approx(value[theirs], abs=1e-6)
