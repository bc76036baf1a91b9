"""Train the nano policy on traces and save what a run needs: `python -m cleaner_lab.nano.cold_start --out DIR`.

DIR/model              Hugging Face folder: weights, tokenizer, chat template
DIR/data/train.parquet RL tasks
DIR/data/val.parquet   held-out tasks
DIR/cold_start.json    settings and losses; its presence means finished, equal settings are not trained again
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cleaner_lab.nano import chain_data
from cleaner_lab.nano.settings import Settings
from cleaner_lab.nano.tasks import TOOL_NAME, make_tasks, to_row
from cleaner_lab.nano.traces import Trace, make_trace

MARKER = "cold_start.json"


def cold_start(out: Path, settings: Settings) -> bool:
    """Return False where DIR holds the same cold start already."""
    marker = out / MARKER
    if marker.exists() and json.loads(marker.read_text())["fingerprint"] == settings.fingerprint():
        return False
    start = time.monotonic()
    building = out.with_name(f".{out.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)

    if settings.calls:
        rows, traces = chain_data.make(settings)
    else:
        rows, traces = _single_tasks(settings)
    _save_rows(building / "data", rows)
    losses = train(building / "model", traces, settings)
    summary = {
        "fingerprint": settings.fingerprint(),
        "settings": asdict(settings),
        "losses": losses,
        "seconds": round(time.monotonic() - start, 1),
    }
    (building / MARKER).write_text(json.dumps(summary, indent=1))
    # A folder that was interrupted is never taken for a finished one.
    shutil.rmtree(out, ignore_errors=True)
    building.rename(out)
    return True


def _single_tasks(settings: Settings) -> tuple[dict[str, list[dict[str, Any]]], list[Trace]]:
    """(rows of each split, traces)."""
    held_out = make_tasks("val", settings.val_size, seed=settings.seed, wide=settings.wide)
    reserved = frozenset(task.question for task in held_out)
    rl = make_tasks("train", settings.train_size, seed=settings.seed, exclude=reserved, wide=settings.wide)
    reserved |= {task.question for task in rl}
    demonstrations = make_tasks("cold_start", settings.traces, seed=settings.seed, exclude=reserved, wide=settings.wide)
    rows = {
        split: [to_row(task, split=split, index=index) for index, task in enumerate(tasks)]
        for split, tasks in (("train", rl), ("val", held_out))
    }
    rng = random.Random(settings.seed)
    shares = {"visible": settings.visible_share, "silent": settings.silent_share}
    return rows, [make_trace(task, rng, **shares) for task in demonstrations]


def _save_rows(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    import pandas as pd

    folder.mkdir()
    for split, of_split in rows.items():
        pd.DataFrame(of_split).to_parquet(folder / f"{split}.parquet")


def train(folder: Path, traces: list[Trace], settings: Settings) -> list[float]:
    """Train tokenizer and model from scratch, save both, return the loss of every tenth of the training."""
    import torch

    from cleaner_lab.nano.tokenizer import train_tokenizer

    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    texts = [text for trace in traces[:4000] for text, _ in segments(trace)]
    tokenizer = train_tokenizer(texts, vocab_size=settings.vocab_size)
    examples = [tokenize(trace, tokenizer) for trace in traces]
    torch.backends.cuda.matmul.allow_tf32 = True
    model = _build_model(tokenizer, settings).to(settings.device)
    optimizers = _optimizers(model, settings)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.param_groups[0]["lr"], total_steps=settings.steps, pct_start=0.05, final_div_factor=20
        )
        for optimizer in optimizers
    ]
    losses: list[float] = []
    window: list[float] = []
    start = shown = time.monotonic()
    batches = _batches(examples, settings)
    for step in range(1, settings.steps + 1):
        loss = _loss(model, next(batches), tokenizer.pad_token_id)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        window.append(loss.detach())
        if step % max(1, settings.steps // 10) == 0:
            losses.append(round(torch.stack(window).mean().item(), 4))
            window.clear()
        now = time.monotonic()
        if now - shown > 5 or step == settings.steps:
            left = (now - start) / step * (settings.steps - step)
            print(f"cold start: step {step}/{settings.steps}, loss {loss.item():.3f}, {left:.0f} s left", flush=True)
            shown = now
    if settings.device == "cuda":
        # As the rollout engine computes.
        model.to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return losses


def segments(trace: Trace) -> Iterator[tuple[str, bool]]:
    """The conversation as text, cut where VeRL's loop cuts it; True for what the policy writes, its end token apart."""
    pending = f"<|im_start|>system\n{TOOL_NAME}(code)<|im_end|>\n"
    for message in trace.messages:
        if message["role"] == "assistant":
            yield f"{pending}<|im_start|>assistant\n", False
            yield message["content"], True
            pending = "\n"
        elif message["role"] == "tool":
            pending += f"<|im_start|>user\n<tool_response>\n{message['content']}\n</tool_response><|im_end|>\n"
        else:
            pending += f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"


def tokenize(trace: Trace, tokenizer: Any) -> tuple[list[int], list[int]]:
    """(ids, mask): mask 1 on the policy's tokens, its <|im_end|> included, but for turns with `trained` False."""
    ids: list[int] = []
    mask: list[int] = []
    trained = iter(message.get("trained", True) for message in trace.messages if message["role"] == "assistant")
    for text, own in segments(trace):
        piece = tokenizer.encode(text, add_special_tokens=False)
        if own:
            piece.append(tokenizer.eos_token_id)
        ids += piece
        mask += [int(own and next(trained))] * len(piece)
    return ids, mask


def _build_model(tokenizer: Any, settings: Settings) -> Any:
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def _optimizers(model: Any, settings: Settings) -> list[Any]:
    """Copying numbers, which every call needs, is learned in a third of the steps with Muon on the matrices."""
    import torch

    embedding = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    others = [p for p in model.parameters() if p.ndim != 2 or p is embedding]
    return [
        torch.optim.Muon(matrices, lr=settings.matrix_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _batches(examples: list[tuple[list[int], list[int]]], settings: Settings) -> Iterator[list[Any]]:
    """Batches of about `settings.tokens` tokens, similar lengths together, epochs without end."""
    rng = random.Random(settings.seed)
    while True:
        order = sorted(examples, key=lambda example: len(example[0]) + rng.random() * 8)
        batches: list[list[Any]] = []
        batch: list[Any] = []
        for example in order:
            if batch and (len(batch) + 1) * len(example[0]) > settings.tokens:
                batches.append(batch)
                batch = []
            batch.append(example)
        batches.append(batch)
        rng.shuffle(batches)
        yield from batches


def _loss(model: Any, batch: list[tuple[list[int], list[int]]], pad: int) -> Any:
    import torch

    length = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in batch], device=model.device)
    mask = torch.tensor([row + [0] * (length - len(row)) for _, row in batch], dtype=torch.bool, device=model.device)
    # Padding stands behind, where the causal mask hides it.
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][mask[:, 1:]]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][mask[:, 1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if cold_start(options.out, Settings(seed=options.seed)):
        print(f"cold start: saved to {options.out}")
    else:
        print(f"cold start: {options.out} is up to date")


if __name__ == "__main__":
    main()
