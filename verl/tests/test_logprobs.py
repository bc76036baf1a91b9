"""The vectorised log-probs against VeRL's own implementations, and that VeRL's actor uses them packed and padded."""

import pytest
import torch
import verl.utils.torch_functional as torch_functional

from verl_cleaner.engine import logprobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7,), (3, 5)])
def test_equals_the_naive_log_softmax(dtype, shape):
    logits = torch.randn(*shape, 11, dtype=dtype)
    labels = torch.randint(0, 11, shape)
    # Half precision is exact in its inputs; only the stock result is rounded.
    wide = torch.promote_types(dtype, torch.float32)
    expected = torch_functional.logprobs_from_logits_naive(logits.to(wide), labels)
    got = logprobs.logprobs_from_logits(logits, labels)
    assert got.dtype == wide
    torch.testing.assert_close(got, expected)


def test_gradient_across_chunks(monkeypatch):
    monkeypatch.setattr(logprobs, "_CHUNK_ELEMENTS", 30)
    logits = torch.randn(10, 11, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (10,))
    assert torch.autograd.gradcheck(lambda x: logprobs.logprobs_from_logits(x, labels), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_equals_autograd_s(dtype):
    logits = torch.randn(6, 17, dtype=dtype)
    labels, weights = torch.randint(0, 17, (6,)), torch.randn(6)
    gradients = []
    for function in (
        logprobs.logprobs_from_logits,
        lambda x, y: torch_functional.logprobs_from_logits_naive(x.float(), y),
    ):
        leaf = logits.clone().requires_grad_()
        (function(leaf, labels) * weights).sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].dtype == dtype
    torch.testing.assert_close(*gradients)


def test_nothing_of_the_logits_size_is_kept_for_the_backward_pass():
    logits = torch.randn(50, 1000, dtype=torch.bfloat16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        logprobs.logprobs_from_logits(logits, torch.zeros(50, dtype=torch.int64))
    storages = {x.untyped_storage().data_ptr() for x in kept if x.numel() >= 50 * 1000}
    assert storages == {logits.untyped_storage().data_ptr()}


def test_verl_uses_it_where_the_engine_is_changed():
    import verl_cleaner.engine.install  # noqa: F401

    assert torch_functional.logprobs_from_logits_v2 is logprobs.logprobs_from_logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_padded_batches_give_the_same(attention):
    """What VeRL's engine does with remove-padding on and off, on transformers' own attention."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attn_implementation=attention,
    )
    model = Qwen3ForCausalLM(config).eval()
    rows = [torch.randint(1, 50, (length,)) for length in (9, 4, 13)]
    packed = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    with torch.no_grad():
        together = model(input_ids=packed, position_ids=positions, use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
    labels = torch.roll(packed[0], -1)
    torch.testing.assert_close(
        logprobs.logprobs_from_logits(together, labels), logprobs.logprobs_from_logits(alone, labels)
    )
