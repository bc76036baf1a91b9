"""What the recipes start: the printed command of DRY_RUN=1, composed by Hydra, has the documented settings."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from composing import composed as basis
from composing import overridden
from omegaconf import DictConfig, OmegaConf

from cleaner_lab.experiments.grid_file import read_grid
from cleaner_lab.experiments.plan import differences

REPOSITORY = Path(__file__).parents[1]
LARGE = [f"{model}{variant}" for model in ("qwen3_4b", "qwen2_7b") for variant in ("_cleaner", "", "_notool")]
SMALL = ["smollm2_135m_cleaner", "smollm2_135m_baseline"]
KNOBS = [
    "MODEL_PATH",
    "TRAIN_FILE",
    "VAL_FILES",
    "PROMPT_SOURCES",
    "OUTPUT_DIR",
    "EXPERIMENT_NAME",
    "NUM_GPU",
    "NNODES",
    "RESUME_DIR",
    "LR",
    "EPOCHS",
    "STEPS",
    "SAVE_FREQ",
    "TEST_FREQ",
    "SEED",
    "DTYPE",
    "FAILED_CALLS",
    "ROLLOUT",
    "ATTENTION",
    "REWARD_PATH",
    "CODE_JUDGE_URL",
    "MAX_EXECUTION_TIME",
    "WANDB_API_KEY",
    "DRY_RUN",
    "train_dataset",
    "num_GPU",
    "resume_dir",
    "model_path",
]


def run(name: str, *arguments: str, **knobs: str) -> subprocess.CompletedProcess:
    mine = {*KNOBS, "STATS", "ATTEMPTS", "ROLLBACK", "CHUNK", "LIMIT"}
    environment = {key: value for key, value in os.environ.items() if key not in mine}
    return subprocess.run(
        ["bash", f"recipe/cleaner/{name}.sh", *arguments],
        cwd=REPOSITORY,
        env=environment | knobs,
        capture_output=True,
        text=True,
        timeout=60,
    )


def command(name: str, *arguments: str, **knobs: str) -> list[str]:
    process = run(name, *arguments, DRY_RUN="1", **knobs)
    assert process.returncode == 0, process.stderr
    return shlex.split(process.stdout)


def composed(name: str, *arguments: str, **knobs: str) -> DictConfig:
    words = command(name, *arguments, **knobs)
    assert words[1:3] == ["-m", "verl_cleaner.main_ppo"]
    return overridden(basis("cleaner"), words[3:])


def check(config: DictConfig, expected: dict[str, object]) -> None:
    got = {key: OmegaConf.select(config, key) for key in expected}
    assert got == expected


R, A = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"


@pytest.mark.parametrize("name", LARGE)
def test_settings_of_the_published_runs(name):
    four_b = "4b" in name
    check(
        composed(name),
        {
            "trainer.n_gpus_per_node": 4,
            "reward.custom_reward_function.path": "pkg://verl_cleaner.reward.router",
            "reward.reward_manager.name": "dapo",
            "algorithm.adv_estimator": "grpo",
            "algorithm.use_kl_in_reward": False,
            f"{A}.use_kl_loss": False,
            f"{A}.clip_ratio_low": 0.2,
            f"{A}.clip_ratio_high": 0.28,
            f"{A}.clip_ratio_c": 10.0,
            f"{A}.loss_agg_mode": "token-mean",
            f"{A}.optim.lr": 2e-6 if four_b else 1e-6,
            f"{A}.optim.lr_warmup_steps": 20,
            "data.train_batch_size": 128,
            f"{A}.ppo_mini_batch_size": 32,
            f"{R}.n": 16,
            "data.max_prompt_length": 2560,
            "data.max_response_length": 20480,
            f"{R}.multi_turn.max_assistant_turns": 16,
            f"{R}.name": "sglang",
            f"{R}.tensor_model_parallel_size": 1,
            f"{A}.strategy": "fsdp2",
            f"{A}.fsdp_config.param_offload": True,
            f"{A}.fsdp_config.optimizer_offload": True,
            f"{A}.fsdp_config.dtype": "float16",
            f"{R}.dtype": "float16",
            "trainer.total_epochs": 1,
            "trainer.save_freq": 10,
            "trainer.test_freq": 10,
            "reward.reward_kwargs.max_resp_len": 20480,
            "reward.reward_kwargs.overlong_buffer_cfg.len": 4096,
            f"{R}.val_kwargs.top_p": 0.6,
            f"{R}.val_kwargs.temperature": 1.0,
            f"{R}.val_kwargs.n": 16 if four_b else 32,
            "data.custom_cls.path": "pkg://verl_cleaner.dataset.rl_dataset",
            "data.custom_cls.name": "CleanerDataset",
            "data.prompt_tools": not name.endswith("_notool"),
        },
    )


@pytest.mark.parametrize("name", LARGE + SMALL)
def test_variants(name):
    config = composed(name)
    turns = OmegaConf.select(config, f"{R}.multi_turn")
    if name.endswith("_cleaner"):
        assert (turns.enable_tool_rollback, turns.max_tool_retries) == (True, 3)
        assert turns.rollback_probability == (0.7 if "7b" in name else 1.0)
        assert turns.get("rollback_at_validation", True)
        # As published.
        assert turns.get("rollback_failed_calls", "discard") == "discard"
        check(config, {f"{R}.calculate_log_probs": False, "algorithm.rollout_correction.rollout_is": None})
        return
    assert not turns.enable_tool_rollback
    check(
        config,
        {
            f"{R}.calculate_log_probs": True,
            "algorithm.rollout_correction.rollout_is": "sequence",
            "algorithm.rollout_correction.rollout_is_threshold": 2.0,
            f"{R}.multi_turn.enable": not name.endswith("_notool"),
        },
    )


def test_half_of_each_group_without_leaves_as_the_page_says():
    page = (REPOSITORY / "docs/recipes.md").read_text()
    (line,) = re.findall(r"^MODEL_PATH=.* bash recipe/cleaner/qwen3_4b_cleaner\.sh (.*\\\n.*)$", page, re.MULTILINE)
    turns = OmegaConf.select(composed("qwen3_4b_cleaner", *line.replace("\\\n", " ").split()), f"{R}.multi_turn")
    assert (turns.rollback_probability, turns.rollback_stratified) == (0.5, True)
    assert turns.get("rollback_failed_calls", "discard") == "discard"


@pytest.mark.parametrize(
    ("name", "method"), [("smollm2_135m_baseline", "baseline_is"), ("smollm2_135m_cleaner", "cleaner")]
)
def test_the_grid_on_a_gpu_has_the_recipes_settings(name, method):
    grid = read_grid(REPOSITORY / "recipe/cleaner/experiments/smollm2.yaml")
    (run_,) = grid.runs(methods=[method], seeds=[0], steps=100)
    config = overridden(basis(grid.config_name), run_.overrides)
    found = differences(
        OmegaConf.to_container(composed(name, ATTENTION="varlen", SEED="0")), OmegaConf.to_container(config)
    )
    # Files, folders and bookkeeping; the grid validates without rollback, the recipe as published.
    own = {"data.train_files", "data.val_files", "actor_rollout_ref.model.path"}
    own |= {f"trainer.{key}" for key in ("experiment_name", "logger", "save_freq", "test_freq", "default_local_dir")}
    own |= {f"trainer.{key}" for key in ("rollout_data_dir", "validation_data_dir")}
    own |= {f"{R}.multi_turn.{key}" for key in ("rollback_at_validation", "max_tool_retries", "rollback_probability")}
    if method == "baseline_is":
        # Said by the recipe, VeRL's own in the grid.
        own.add(f"{R}.multi_turn.enable_tool_rollback")
    assert {line.split(" ")[0] for line in found} <= own


@pytest.mark.parametrize("name", LARGE + SMALL)
def test_nothing_but_files_and_judge_is_missing(name, monkeypatch):
    """The preflight has nothing against the composed settings themselves, fp16 translated; GPUs are the cluster's."""
    from verl_cleaner import preflight
    from verl_cleaner.preflight.checks import CONFIGURATION, findings

    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    config = composed(name)
    preflight.prepare(config)
    assert findings(config, CONFIGURATION) == []
    if "qwen" in name:
        assert OmegaConf.select(config, f"{A}.fsdp_config.mixed_precision.param_dtype") == "fp16"


def test_the_two_smollm2_runs_differ_in_the_method_only():
    cleaner, baseline = (
        {word.lstrip("+").partition("=")[0]: word for word in command(name, OUTPUT_DIR="o", EXPERIMENT_NAME="e")[3:]}
        for name in SMALL
    )
    different = {key for key in cleaner.keys() | baseline.keys() if cleaner.get(key) != baseline.get(key)}
    turns = f"{R}.multi_turn"
    correction = "algorithm.rollout_correction"
    assert different == {
        *(f"{turns}.{key}" for key in ("enable_tool_rollback", "max_tool_retries", "rollback_probability")),
        *(f"{correction}.{key}" for key in ("rollout_is", "rollout_is_threshold")),
        f"{R}.calculate_log_probs",
    }


def test_knobs_reach_the_configuration():
    config = composed(
        "qwen3_4b_cleaner",
        f"{R}.n=4",
        MODEL_PATH="/m",
        TRAIN_FILE="/t.parquet",
        VAL_FILES="/a.parquet, /b.parquet",
        PROMPT_SOURCES="/p.yaml",
        OUTPUT_DIR="out",
        EXPERIMENT_NAME="x",
        NUM_GPU="2",
        NNODES="3",
        LR="1e-6",
        EPOCHS="3",
        STEPS="7",
        SAVE_FREQ="5",
        TEST_FREQ="6",
        SEED="8",
        DTYPE="bf16",
        FAILED_CALLS="leaf",
        ROLLOUT="vllm",
        ATTENTION="eager",
        REWARD_PATH="/r.py",
        RESUME_DIR="/c/global_step_3",
        WANDB_API_KEY="secret",
    )
    check(
        config,
        {
            f"{R}.n": 4,
            "actor_rollout_ref.model.path": "/m",
            "data.train_files": ["/t.parquet"],
            "data.val_files": ["/a.parquet", "/b.parquet"],
            "data.prompt_sources": "/p.yaml",
            "trainer.default_local_dir": "out/checkpoints",
            "trainer.experiment_name": "x",
            "trainer.n_gpus_per_node": 2,
            "trainer.nnodes": 3,
            f"{A}.optim.lr": 1e-6,
            "trainer.total_epochs": 3,
            "trainer.total_training_steps": 7,
            "trainer.save_freq": 5,
            "trainer.test_freq": 6,
            "data.seed": 8,
            f"{R}.seed": 8,
            f"{A}.fsdp_config.dtype": "bfloat16",
            f"{R}.dtype": "bfloat16",
            f"{R}.name": "vllm",
            f"{R}.multi_turn.rollback_failed_calls": "leaf",
            f"{R}.multi_turn.rollback_probability": 0.5,
            f"{R}.multi_turn.rollback_stratified": True,
            "actor_rollout_ref.model.override_config.attn_implementation": "eager",
            "reward.custom_reward_function.path": "/r.py",
            "trainer.resume_mode": "resume_path",
            "trainer.resume_from_path": "/c/global_step_3",
            "trainer.logger": ["console", "file", "tensorboard", "wandb"],
        },
    )
    assert "secret" not in OmegaConf.to_yaml(config)


def test_published_names_are_aliases():
    aliases = {"train_dataset": "/t", "num_GPU": "8", "resume_dir": "/c", "model_path": "/m"}
    names = {"TRAIN_FILE": "/t", "NUM_GPU": "8", "RESUME_DIR": "/c", "MODEL_PATH": "/m"}
    assert command("qwen2_7b", **aliases) == command("qwen2_7b", **names)


@pytest.mark.parametrize("name", [*LARGE, *SMALL, "sft", "rollout_stats"])
def test_help_tells_every_knob(name):
    process = run(name, "--help")
    assert process.returncode == 0
    documented = {line.split()[0] for line in process.stdout.splitlines() if line.startswith("  ") and line[2] != " "}
    script = (REPOSITORY / f"recipe/cleaner/{name}.sh").read_text()
    used = set(KNOBS[: KNOBS.index("train_dataset")]) if name in LARGE + SMALL else {"MODEL_PATH", "TRAIN_FILE"}
    assert used <= documented
    assert script.splitlines()[1].removeprefix("# ") in process.stdout


@pytest.mark.parametrize(
    ("arguments", "knobs", "message"),
    [
        (["--steps"], {}, "unknown argument '--steps'"),
        ([], {"ROLLOUT": "hf"}, "ROLLOUT must be one of sglang vllm, got hf"),
        ([], {"DTYPE": "fp8"}, "DTYPE must be one of fp16 bf16, got fp8"),
        ([], {"FAILED_CALLS": "keep"}, "FAILED_CALLS must be one of discard leaf, got keep"),
        ([], {"NUM_GPU": "four"}, "NUM_GPU must be a positive whole number, got four"),
        ([], {"NNODES": "2"}, "NNODES=2 needs CODE_JUDGE_URL"),
    ],
)
def test_bad_input_is_named(arguments, knobs, message):
    process = run("qwen3_4b_cleaner", *arguments, **knobs)
    assert process.returncode != 0
    assert message in process.stderr


def test_leaves_need_rollback():
    assert "FAILED_CALLS=leaf needs rollback" in run("qwen3_4b", FAILED_CALLS="leaf", DRY_RUN="1").stderr
    assert run("qwen3_4b", FAILED_CALLS="discard", DRY_RUN="1").returncode == 0


def test_export_wants_a_checkpoint(tmp_path):
    assert f"{tmp_path} holds no checkpoint" in run("export", str(tmp_path), str(tmp_path / "out")).stderr


def test_the_documentation_lists_every_script():
    text = (REPOSITORY / "docs/recipes.md").read_text()
    elsewhere = {"quickstart.sh", "slurm.sh", "two_hosts.sh"}
    scripts = {path.name for path in (REPOSITORY / "recipe/cleaner").glob("*.sh")} - elsewhere
    assert {name for name in scripts if f"`{name}`" in text} == scripts
    for name in ("slurm.sh", "two_hosts.sh"):
        assert f"recipe/cleaner/{name}" in (REPOSITORY / "docs/multi-node.md").read_text()


def test_rollout_stats_is_an_evaluation_that_samples_as_in_training():
    from verl_cleaner.dataset import filter as data_filter
    from verl_cleaner.evaluation import rollout_stats as stats
    from verl_cleaner.evaluation.runner import overrides

    words = command("rollout_stats", MODEL_PATH="/m", PROMPT_SOURCES="/p.yaml", ATTEMPTS="4", LIMIT="9", NUM_GPU="2")
    assert words[1:3] == ["-m", "verl_cleaner.evaluation.rollout_stats"]
    options = stats.parse(words[3:])
    assert (str(options.out), options.limit) == (str(data_filter.STATISTICS), 9)
    evaluation = stats.evaluation(options)
    assert (evaluation.samples, evaluation.rollback, evaluation.sources) == (4, ("plain",), "/p.yaml")
    arguments = [text for text in overrides(evaluation, "plain") if not text.startswith(("hydra.", "--config-name"))]
    config = overridden(basis("cleaner"), arguments)
    check(
        config,
        {
            "actor_rollout_ref.model.path": "/m",
            f"{R}.val_kwargs.n": 4,
            f"{R}.val_kwargs.temperature": 1.0,
            f"{R}.val_kwargs.top_p": 1.0,
            f"{R}.multi_turn.enable_tool_rollback": None,
            "trainer.n_gpus_per_node": 2,
            "trainer.val_only": True,
            "reward.custom_reward_function.reward_kwargs.sources": "/p.yaml",
        },
    )
    assert stats.evaluation(stats.parse(command("rollout_stats", ROLLBACK="on")[3:])).rollback == ("rollback",)
    assert stats.parse(command("rollout_stats", ROLLOUT="cpu")[3:]).config_name == "quickstart"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ATTEMPTS": "3"}, "ATTEMPTS must be one of 1 2 4 8, got 3"),
        ({"ROLLBACK": "both"}, "ROLLBACK must be one of on off, got both"),
        ({"CHUNK": "0"}, "CHUNK must be a positive whole number, got 0"),
    ],
)
def test_bad_knobs_of_rollout_stats(knobs, message):
    assert message in run("rollout_stats", **knobs).stderr


def test_demyagent_s_setting_is_one_line():
    line = "LR=1e-6 EPOCHS=3 bash recipe/cleaner/qwen3_4b.sh"
    assert line in (REPOSITORY / "docs/recipes.md").read_text()
    check(composed("qwen3_4b", LR="1e-6", EPOCHS="3"), {f"{A}.optim.lr": 1e-6, "trainer.total_epochs": 3})
