"""What an evaluation starts, what it keeps, and what it refuses."""

import json
import subprocess
import sys

import pytest
from composing import composed as basis
from composing import overridden
from omegaconf import OmegaConf
from test_evaluation_statistics import trajectory

from verl_cleaner.dataset import synthetic
from verl_cleaner.evaluation import runner
from verl_cleaner.evaluation.runner import PLAIN, ROLLBACK, Evaluation, EvaluationError
from verl_cleaner.evaluation.suites import read_suite
from verl_cleaner.records import trajectories

R = "actor_rollout_ref.rollout"
AIME24 = synthetic.EVALUATION["aime2024"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Made-up files where dataset/README.md wants them."""
    synthetic.write_all(tmp_path / "dataset", rows=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluation(data, **more):
    return Evaluation(**{"model": "a/model", "suites": ("aime2024",), "out": data / "out", "samples": 2} | more)


def composed(it, arm):
    name, *words = runner.overrides(it, arm)
    return overridden(basis(name.removeprefix("--config-name=")), words)


@pytest.mark.parametrize("arm", [ROLLBACK, PLAIN])
def test_what_is_started(data, arm):
    user = (f"{R}.val_kwargs.top_p=0.6", "reward.reward_manager.name=dapo", "data.val_files=/elsewhere")
    config = composed(evaluation(data, overrides=user, sources="mine.yaml"), arm)
    turns = OmegaConf.select(config, f"{R}.multi_turn")
    assert turns.get("enable_tool_rollback", False) is (arm == ROLLBACK)
    assert turns.get("max_tool_retries", 3) == 3
    assert turns.get("rollback_at_validation", True)
    expected = {
        "trainer.val_only": True,
        "trainer.resume_mode": "disable",
        "trainer.trajectories_dir": str(data / "out" / arm / "trajectories"),
        "data.val_files": str(data / "out" / arm / "problems.parquet"),
        "data.custom_cls.path": None,
        f"{R}.val_kwargs.n": 2,
        f"{R}.val_kwargs.top_p": 0.6,
        "reward.reward_manager.name": "naive",
        "reward.custom_reward_function.path": "pkg://verl_cleaner.reward.router",
        "reward.custom_reward_function.reward_kwargs": {
            "math_verify": True,
            "early_stop": True,
            "sources": "mine.yaml",
        },
    }
    assert {key: OmegaConf.select(config, key) for key in expected} == expected


def test_what_the_user_adds_wins(data):
    kwargs = "reward.custom_reward_function.reward_kwargs"
    user = (f"+{kwargs}.math_verify=False", f"+{kwargs}.sources=other.yaml", f"+{R}.multi_turn.max_tool_retries=1")
    config = composed(evaluation(data, overrides=user, sources="mine.yaml"), ROLLBACK)
    function = config.reward.custom_reward_function
    assert dict(function.reward_kwargs) == {"early_stop": True, "math_verify": False, "sources": "other.yaml"}
    assert OmegaConf.select(config, f"{R}.multi_turn.max_tool_retries") == 1


def test_a_reward_of_the_users_own_gets_no_options_of_ours(data):
    config = composed(evaluation(data, overrides=("reward.custom_reward_function.path=/mine.py",)), PLAIN)
    function = config.reward.custom_reward_function
    assert (function.path, dict(function.get("reward_kwargs") or {})) == ("/mine.py", {})


def test_as_in_training_every_test_counts(data):
    config = composed(evaluation(data, accuracy_only=False), PLAIN)
    assert dict(config.reward.custom_reward_function.get("reward_kwargs") or {}) == {}


@pytest.mark.parametrize("odd", ["a b", "a,b", "a=b", "it's", 'a"b', "[a]{b}", "a\\", "a\\'b"])
def test_paths_may_hold_anything(data, odd):
    it = evaluation(data, model=f"/models/{odd}", out=data / odd, sources=f"/{odd}.yaml")
    config = composed(it, PLAIN)
    assert config.actor_rollout_ref.model.path == f"/models/{odd}"
    assert config.data.val_files == str(data / odd / PLAIN / "problems.parquet")
    assert config.reward.custom_reward_function.reward_kwargs.sources == f"/{odd}.yaml"


def test_another_judge_is_refused(data, monkeypatch):
    monkeypatch.setattr(runner, "Run", Played)
    monkeypatch.setenv("MAX_MEMORY", "1024")
    runner.run(evaluation(data, limit=2), lambda _: None)
    for name in ("MAX_MEMORY", "MAX_EXECUTION_TIME", "MAX_OUTPUT_SIZE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "9")
            with pytest.raises(EvaluationError, match=f"judge: begun with .*, now .*'{name}': '9'"):
                runner.run(evaluation(data, limit=2), lambda _: None)


def test_in_a_training_set_the_uid_is_the_problem(tmp_path):
    """Names of benchmarks may occur twice there, or in some rows only."""
    rows = [
        {"data_source": "math_dapo", "prompt": [{"role": "user", "content": "1 + 1?"}], "uid": uid,
         "reward_model": {"ground_truth": "2"}, "extra_info": {"ID": "same"}, "question_id": "same"}
        for uid in ("a", "b")
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [problem.id for problem in read_suite(str(path))] == ["a", "b"]


def test_without_tools_prompts_do_not_talk_of_them(data):
    with_tools, without = (read_suite("aime2024", tools=tools)[0].row.prompt[0]["content"] for tools in (True, False))
    assert "code interpreter" in with_tools
    assert "code interpreter" not in without
    config = composed(evaluation(data, tools=False), PLAIN)
    assert OmegaConf.select(config, f"{R}.multi_turn.enable") is False


def test_the_front_end_starts_without_verl_and_torch():
    """They take seconds, and hundreds of megabytes beside the run that brings its own."""
    program = "import sys, verl_cleaner.evaluation.__main__; print({'verl', 'torch', 'ray'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60) == "set()\n"


class Played:
    """In place of the training process: answers the problems, or loses some of them."""

    lost = 0

    def __init__(self, folder, words):
        self.folder, self.words = folder, words

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def steps(self):
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(self.folder / "problems.parquet").to_pylist()
        assert pyarrow.parquet.read_metadata(self.folder / "training.parquet").num_rows == 64
        yield None
        for row in rows[self.lost :]:
            extra = row["extra_info"]
            samples = [trajectory(extra["problem"], sample, acc=1.0, suite=extra["suite"]) for sample in range(2)]
            trajectories.write_next(self.folder / "trajectories", samples)
            yield None


def test_done_problems_are_kept_and_lost_ones_run_again(data, monkeypatch):
    monkeypatch.setattr(runner, "Run", Played)
    monkeypatch.setattr(Played, "lost", 3)
    said = []
    it = evaluation(data, suites=("aime2024", "aime2025"), rollback=(PLAIN,), limit=5)
    with pytest.raises(EvaluationError, match=r"plain: 3 of 10 problems were lost .* the same command runs them again"):
        runner.run(it, said.append)
    monkeypatch.setattr(Played, "lost", 0)
    problems = runner.run(it, said.append)
    assert "[cleaner] plain: 7 of 10 problems are done already" in said
    assert len(problems) == 10
    assert len(runner.done(data / "out" / PLAIN / "trajectories", 2)) == 10
    runner.run(it, said.append)
    assert said[-1] == "[cleaner] plain: 10 of 10 problems are done already"
    # The other arm may follow in the same folder.
    runner.run(evaluation(data, suites=("aime2024", "aime2025"), rollback=(ROLLBACK,), limit=5), said.append)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 3}, "samples: begun with 2, now 3"),
        ({"model": "other/model"}, "model: begun with a/model, now other/model"),
        ({"suites": ("aime2025",)}, "problems: begun with {'aime2024': 5}, now {'aime2025': 5}"),
        ({"retries": 1}, "rollback_retries: begun with 3, now 1"),
        ({"tools": False}, "tools: begun with True, now False"),
        ({"overrides": (f"{R}.val_kwargs.top_p=0.9",)}, "overrides: begun with []"),
        ({"overrides": (f"+{R}.multi_turn.rollback_mode=keep",)}, "overrides: begun with []"),
    ],
)
def test_other_settings_are_refused(data, monkeypatch, change, message):
    monkeypatch.setattr(runner, "Run", Played)
    runner.run(evaluation(data, limit=5), lambda _: None)
    with pytest.raises(EvaluationError) as error:
        runner.run(evaluation(data, **{"limit": 5} | change), lambda _: None)
    assert message in str(error.value)
    assert "give the same settings to go on with it, or another folder" in str(error.value)


def test_what_says_nothing_of_the_answers_may_change(data, monkeypatch):
    monkeypatch.setattr(runner, "Run", Played)
    runner.run(evaluation(data, limit=5), lambda _: None)
    runner.run(evaluation(data, limit=5, chunk=7, overrides=("trainer.n_gpus_per_node=8",)), lambda _: None)


def test_other_weights_or_data_under_the_same_name_are_noticed(data, monkeypatch):
    monkeypatch.setattr(runner, "Run", Played)
    model = data / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"x")
    it = evaluation(data, model=str(model), suites=(str(data / "dataset" / AIME24),), limit=5)
    runner.run(it, lambda _: None)
    (model / "model.safetensors").write_bytes(b"xy")
    with pytest.raises(EvaluationError, match="weights: begun with"):
        runner.run(it, lambda _: None)
    settings = json.loads((data / "out/settings.json").read_text())
    problems = [problem for suite in it.suites for problem in read_suite(suite, limit=5)]
    assert settings["data"] == runner.settings(it, problems)["data"] != runner.settings(it, problems[:4])["data"]


def test_the_benchmarks_are_read(data):
    problems = {suite: read_suite(suite) for suite in ("aime2024", "aime2025", "gpqa", "livecodebench", "humaneval")}
    assert {suite: len(found) for suite, found in problems.items()} == {
        "aime2024": 30, "aime2025": 30, "gpqa": 198, "livecodebench": 175, "humaneval": 164,
    }  # fmt: skip
    assert problems["humaneval"][3].id == "HumanEval/3"
    assert all(len({problem.id for problem in found}) == len(found) for found in problems.values())
