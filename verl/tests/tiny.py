"""A tokenizer, a random model and a data set small enough for tests: one token a byte, ChatML with tools."""

import json
from pathlib import Path

from cleaner_lab.nano.tokenizer import CHAT_TEMPLATE, MARKS, SPECIAL


def tiny_tokenizer():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(vocab_size: int, **rest):
    """Of a Qwen3 model with two layers; `rest` as Qwen3Config takes it."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **rest,
    )


def tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Save a random Qwen3 model with its tokenizer."""
    import torch
    from transformers import GenerationConfig, Qwen3ForCausalLM

    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = tiny_config(
        len(tokenizer),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_dataset(path: Path, rows: int = 8) -> Path:
    import pandas as pd

    frame = pd.DataFrame(
        [
            {
                "data_source": "tiny",
                "prompt": [{"role": "user", "content": f"say {i}"}],
                "ability": "none",
                "reward_model": {"style": "rule", "ground_truth": str(i)},
                "extra_info": {"index": i, "split": "train"},
            }
            for i in range(rows)
        ]
    )
    frame.to_parquet(path)
    return path


def tiny_sglang(folder: Path, *fields: str) -> Path:
    """A package with the file in which SGLang has its request for an adapter, with these fields."""
    file = folder / "sglang/srt/managers/io_struct.py"
    file.parent.mkdir(parents=True)
    (folder / "sglang/__init__.py").write_text("raise RuntimeError('imported')\n")
    lines = [f"    {field}: str" for field in ("lora_name", "config_dict", *fields)]
    request = ["@dataclass", "class LoadLoRAAdapterFromTensorsReqInput(BaseReq):", *lines, "    pinned: bool = False"]
    file.write_text("\n".join(["class BaseReq:", "    rid: str = ''", "", *request, ""]))
    return folder / "sglang"


def tiny_reward(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """Something that varies within a group."""
    acc = float(len(solution_str) % 2)
    return {"score": acc, "acc": acc}


if __name__ == "__main__":
    import sys

    out = Path(sys.argv[1])
    tiny_model(out / "model")
    tiny_dataset(out / "train.parquet")
    print(json.dumps({"model": str(out / "model"), "data": str(out / "train.parquet")}))
