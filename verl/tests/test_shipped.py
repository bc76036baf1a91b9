"""The cold start in the package is what its command makes. In full: `python -m cleaner_lab.nano.shipped check`."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cleaner_lab.experiments.grid_file import read_grid
from cleaner_lab.nano import cold_start as cold
from cleaner_lab.nano import shipped
from cleaner_lab.nano.settings import Settings
from cleaner_lab.nano.tasks import make_tasks, to_row
from cleaner_lab.nano.traces import make_trace

AGAIN = f"its settings or code have changed; make it again: {shipped.COMMAND} make"


def test_it_was_made_with_the_settings_and_the_code_as_they_are():
    marker = json.loads((shipped.FOLDER / cold.MARKER).read_text())
    assert marker["fingerprint"] == Settings().fingerprint(), AGAIN
    assert shipped.find(Settings()) == shipped.FOLDER
    assert shipped.find(Settings(seed=1)) is None


def test_the_files_are_those_of_the_provenance():
    provenance = json.loads((shipped.FOLDER / shipped.PROVENANCE).read_text())
    assert provenance["sha256"] == shipped.sums(shipped.FOLDER)
    assert provenance["fingerprint"] == Settings().fingerprint()
    size = sum(path.stat().st_size for path in shipped.FOLDER.rglob("*") if path.is_file())
    assert size < 2_000_000


def test_the_data_are_the_tasks_that_are_made_now():
    held_out = make_tasks("val", Settings().val_size, seed=0)
    rl = make_tasks("train", 64, seed=0, exclude=frozenset(task.question for task in held_out))
    rows = [to_row(task, split="val", index=index) for index, task in enumerate(held_out)]
    assert pd.read_parquet(shipped.FOLDER / "data/val.parquet").to_dict("records") == rows
    questions = {row[0]["content"] for row in pd.read_parquet(shipped.FOLDER / "data/train.parquet")["prompt"]}
    assert {task.question for task in rl} <= questions


def test_the_weights_know_the_traces_that_are_made_now():
    """Loss as at the end of its training; a policy of other traces, or of another tokenizer, is far from it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(shipped.FOLDER / "model")
    tokenizer = AutoTokenizer.from_pretrained(shipped.FOLDER / "model")
    rng = random.Random(0)
    examples = [cold.tokenize(make_trace(task, rng), tokenizer) for task in make_tasks("cold_start", 140, seed=0)]
    with torch.inference_mode():
        loss = cold._loss(model, examples, tokenizer.pad_token_id).item()
    last = json.loads((shipped.FOLDER / cold.MARKER).read_text())["losses"][-1]
    assert loss == pytest.approx(last, abs=shipped.LOSS_TOLERANCE)
    assert sum(weights.numel() for weights in model.parameters()) == 366_384


def test_grids_of_the_same_settings_begin_with_it(tmp_path):
    grid = read_grid(Path(__file__).parents[2] / "recipe/cleaner/experiments/nano.yaml")
    assert grid.prepare_cold_start(tmp_path).model == shipped.FOLDER / "model"
    tiny = dict(hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, head_dim=8, vocab_size=300, traces=60)
    tiny |= dict(steps=2, tokens=256, train_size=14, val_size=16)
    other = replace(grid, cold_start={"nano": tiny}).prepare_cold_start(tmp_path)
    assert other.model.is_relative_to(tmp_path)


def test_a_cold_start_that_is_another_is_told(tmp_path):
    again = tmp_path / "again"
    shutil.copytree(shipped.FOLDER, again)
    assert shipped.differences(shipped.FOLDER, again) == []
    rows = pd.read_parquet(again / "data/val.parquet")
    rows.iloc[1:].to_parquet(again / "data/val.parquet")
    (again / "model/chat_template.jinja").unlink()
    marker = json.loads((again / cold.MARKER).read_text())
    marker["losses"][-1] += 2 * shipped.LOSS_TOLERANCE
    (again / cold.MARKER).write_text(json.dumps(marker | {"fingerprint": "other"}))
    found = shipped.differences(shipped.FOLDER, again)
    assert [line.partition(": ")[0] for line in found] == [
        "model/chat_template.jinja",
        "data/val.parquet",
        cold.MARKER,
        cold.MARKER,
    ]
