"""What dataset/README.md promises: paths, counts, options, examples."""

import json
import re
from pathlib import Path
from unittest import mock

import pytest
import yaml

from verl_cleaner.dataset import filter as data_filter
from verl_cleaner.dataset import success, synthetic
from verl_cleaner.dataset.schemas import read_rows
from verl_cleaner.evaluation.suites import SUITES
from verl_cleaner.reward.sources import load

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "dataset/README.md").read_text()


def test_the_layout_is_that_of_recipes_suites_and_made_up_files():
    layout = re.findall(r"^  (Open-AgentRL-\S+)", TEXT, re.MULTILINE)
    made = [synthetic.TRAINING, synthetic.STATISTICS, *synthetic.EVALUATION.values()]
    assert set(layout) == {*map(str, made), "Open-AgentRL-30K/filtered_sr.parquet"}
    assert {str(path) for path in SUITES.values()} == {f"dataset/{path}" for path in synthetic.EVALUATION.values()}
    assert tuple(Path("dataset") / path for path in (synthetic.TRAINING, synthetic.STATISTICS)) == (
        data_filter.DATASET,
        data_filter.STATISTICS,
    )
    common = (REPOSITORY / "recipe/cleaner/lib/common.sh").read_text()
    recipe = (REPOSITORY / "recipe/cleaner/qwen3_4b_cleaner.sh").read_text()
    assert all(f"dataset/{synthetic.EVALUATION[name]}" in common for name in ("aime2024", "aime2025"))
    assert f"TRAIN_FILE={data_filter.FOLDER / data_filter.OUTPUT}" in recipe


def test_the_counts_of_the_training_set():
    rows = re.findall(r"^\| (`.*`) \| ([\d,]+) \| (\w+) \|$", TEXT, re.MULTILINE)
    for names, count, kind in rows:
        patterns = [name.rstrip("*") for name in re.findall(r"`([^`]+)`", names)]
        own = {name: n for name, n in synthetic.SOURCES.items() if name.startswith(tuple(patterns))}
        assert sum(own.values()) == int(count.replace(",", "")), names
        assert {str(load().kind(name)) for name in own} == {kind}
    assert sum(int(count.replace(",", "")) for _, count, _ in rows) == synthetic.FULL_SIZE


def test_the_options_of_the_filter_and_their_defaults():
    with mock.patch("sys.argv", ["data_filter.sh"]):
        options = vars(data_filter._parse())
    documented = {
        name for line in TEXT.splitlines() if line.startswith("| `--") for name in re.findall(r"`--(\w+)`", line)
    }
    assert documented == options.keys() - {"sources"}
    assert f"`{data_filter.RATIOS}`" in TEXT
    assert f"| `--seed` | {options['seed']};" in TEXT
    script = (REPOSITORY / "data_filter.sh").read_text()
    assert all(f"--{name}" in script for name in options)


def test_the_examples_are_read(tmp_path):
    line = re.search(r"```json\n(.*?)```", TEXT, re.DOTALL).group(1)
    (tmp_path / "s.jsonl").write_text(line)
    example = success.read(tmp_path / "s.jsonl")["17"]
    assert example == success.Statistic.of("17", "math_dapo", [1.0] * 3 + [0.0] * 5, [1.0] * 3 + [0.0] * 5)
    assert list(json.loads(line)) == list(success.Statistic.__dataclass_fields__)
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL).group(1))
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())
    sources = load(tmp_path / "mine.yaml")
    assert sources.shape("math_dapo", "1 + 1?", tools=False) == "1 + 1?\nAnswer in \\boxed{}."
    assert sources.kind("my-problems-1") == "choice"


def test_a_file_of_another_trainer_is_refused_with_what_to_do_and_then_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "1 + 1?", "solution": 2}, {"prompt": "1 + 2?", "solution": 3}]
    Path("trl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"lacks .*data_source.*dataset/README\.md shows how to convert"):
        list(read_rows(Path("trl.jsonl"), load(), tools=False))
    exec(re.search(r"### Files of other trainers.*?```python\n(.*?)```", TEXT, re.DOTALL)[1], {})
    first, second = read_rows(Path("train.parquet"), load(), tools=False)
    assert (first.prompt[-1]["role"], first.ground_truth, second.ground_truth) == ("user", "2", "3")
    assert "1 + 1?" in first.prompt[-1]["content"]
