"""Packed attention: each sequence as if it were alone. The kernel itself needs a GPU; here PyTorch's own stands in."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import verl  # noqa: F401  loads the plug-in
from omegaconf import OmegaConf
from tiny import tiny_config, tiny_model, tiny_tokenizer
from torch.nn.attention import varlen
from transformers import AutoConfig, AutoModelForCausalLM
from verl.utils import model

import verl_cleaner.engine.install  # noqa: F401  registers the name
from verl_cleaner.engine.attention import varlen_attention

LENGTHS = [5, 1, 7]
REPOSITORY = Path(__file__).parents[2]


def sequence_by_sequence(query, key, value, bounds, _, longest, __, *, scale, window_size):
    """As torch.nn.attention.varlen.varlen_attn says of itself."""
    assert longest == int(bounds.diff().max())
    outputs = []
    for start, end in pairwise(bounds):
        q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def models(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", sequence_by_sequence)
    torch.manual_seed(0)
    packed = AutoModelForCausalLM.from_config(tiny_config(64), attn_implementation="varlen").to(torch.bfloat16)
    alone = AutoModelForCausalLM.from_config(tiny_config(64), attn_implementation="sdpa").to(torch.bfloat16)
    alone.load_state_dict(packed.state_dict())
    return packed, alone


def test_a_packed_sequence_sees_itself_only(models):
    packed, alone = models
    assert packed.config._attn_implementation == "varlen"
    rows = [torch.randint(64, (1, length)) for length in LENGTHS]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    logits = packed(torch.cat(rows, 1), position_ids=positions, use_cache=False).logits
    expected = torch.cat([alone(row, use_cache=False).logits for row in rows], 1)
    torch.testing.assert_close(logits, expected, atol=2e-2, rtol=2e-2)
    # Positions tell the sequences apart, so that one long sequence is something else.
    joined = packed(torch.cat(rows, 1), position_ids=torch.arange(sum(LENGTHS))[None], use_cache=False).logits
    assert (joined - expected).abs().max() > 0.1


def test_sliding_window_counts_the_token_itself(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", sequence_by_sequence)
    query, key, value = (torch.randn(1, 2, 6, 8, dtype=torch.bfloat16) for _ in range(3))
    output, _ = varlen_attention(
        None, query, key, value, None, position_ids=torch.arange(6)[None], scaling=1.0, sliding_window=1
    )
    torch.testing.assert_close(output, value.transpose(1, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 2}, "use_remove_padding=True"),
        ({"mask": torch.ones(1, 1, 3, 3)}, "use_remove_padding=True"),
        ({"dtype": torch.float32}, "float16 or bfloat16"),
        ({"positions": [[2, 0, 1]]}, "must begin with 0"),
        ({"positions": [[[0, 1, 2]]] * 3}, r"shape \(1, tokens\), got \(3, 1, 3\)"),
        ({"more": {"softcap": 50.0}}, "does not compute softcap.*flash-attn"),
        ({"more": {"s_aux": torch.zeros(2)}}, "does not compute s_aux.*flash-attn"),
    ],
)
def test_what_is_no_packed_row_is_refused(changes, message):
    tensor = torch.zeros(changes.get("batch", 1), 2, 3, 8, dtype=changes.get("dtype", torch.bfloat16))
    positions = torch.tensor(changes.get("positions", [[0, 1, 2]]))
    with pytest.raises(ValueError, match=message):
        varlen_attention(
            None, tensor, tensor, tensor, changes.get("mask"), position_ids=positions, **changes.get("more", {})
        )


def test_a_critic_is_loaded_with_its_own_attention(tmp_path):
    """VeRL asks for flash-attn in every critic, and where it is missing for trl."""
    tiny_model(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, attn_implementation="sdpa", num_labels=1)
    loaded = model.load_valuehead_model(str(tmp_path), torch.float32, config, False)
    assert loaded.config._attn_implementation == "sdpa"
    tokens = torch.tensor([[1, 2, 3]])
    assert loaded(input_ids=tokens).logits.shape == (1, 3, 1)
    with pytest.raises(RuntimeError, match="value head"):
        model.load_valuehead_model.__wrapped__(str(tmp_path), torch.float32, config, False)


@pytest.mark.parametrize("libraries", [None, "first", ["first", "second"], OmegaConf.create(["first", "second"])])
def test_a_critics_libraries_are_imported_before_it_is_built(monkeypatch, libraries):
    from verl_cleaner.training import actor

    done = []
    monkeypatch.setattr("importlib.import_module", done.append)
    monkeypatch.setattr(actor.TrainingWorker, "__init__", lambda _, config: done.append(config))
    config = SimpleNamespace(model_config=SimpleNamespace(external_lib=libraries))
    actor.CriticWorker(config)
    assert done == [*([libraries] if isinstance(libraries, str) else libraries or []), config]


def test_a_checkpoint_is_exported_and_loads_where_nobody_knows_the_name(tmp_path):
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
    from verl.utils.fsdp_utils import fully_shard
    from verl.utils.model import update_model_config

    config = tiny_config(64, architectures=["Qwen3ForCausalLM"])
    # As VeRL's engine does it with model.override_config.
    update_model_config(config, override_config_kwargs={"attn_implementation": "varlen"})
    policy = AutoModelForCausalLM.from_config(config, attn_implementation="varlen")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(policy, mesh=torch.distributed.init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",)))
        contents = OmegaConf.create({"save_contents": ["model"], "load_contents": ["model"]})
        manager = FSDPCheckpointManager(policy, processing_class=tiny_tokenizer(), checkpoint_config=contents)
        manager.save_checkpoint(str(tmp_path / "saved"))
    finally:
        torch.distributed.destroy_process_group()
    assert policy.config._attn_implementation == "varlen"
    export = ["bash", "recipe/cleaner/export.sh", str(tmp_path / "saved"), str(tmp_path / "exported")]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(export, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "varlen" not in (tmp_path / "exported/config.json").read_text()
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(tmp_path / "exported").lm_head.weight.float(),
        policy.lm_head.weight.full_tensor().bfloat16().float(),
    )
