"""A tiny model that has learnt answers by heart: its most likely answer to each context is the one it was taught."""

from pathlib import Path
from typing import Any

from tiny import tiny_config, tiny_tokenizer

Messages = list[dict[str, Any]]


def parrot(folder: Path, answers: list[tuple[Messages, dict[str, Any]]], *, tools: list[dict[str, Any]]) -> Path:
    """Save a model that gives these (context, assistant message), and its tokenizer."""
    import torch
    from transformers import GenerationConfig, Qwen3ForCausalLM

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = tiny_config(
        len(tokenizer),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    config.hidden_size, config.intermediate_size = 64, 128
    model = Qwen3ForCausalLM(config)
    contexts = [
        tokenizer.apply_chat_template(c, tools=tools, tokenize=False, add_generation_prompt=True) for c, _ in answers
    ]
    texts = [tokenizer.apply_chat_template([*c, a], tools=tools, tokenize=False).rstrip("\n") for c, a in answers]
    batch = tokenizer(texts, padding=True, return_tensors="pt", padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, context in zip(labels, contexts, strict=True):
        row[: len(tokenizer.encode(context))] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(500):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    assert loss.item() < 0.1, "the answers were not learnt"
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
