"""What the driver does for runs that choose CLEANER, under VeRL's own mains."""

import json

import pytest
from omegaconf import OmegaConf
from ray._private.worker import _merge_runtime_env
from verl.trainer.main_ppo import get_ppo_ray_runtime_env

from verl_cleaner import driver
from verl_cleaner.preflight import PreflightError

JUDGE = "http://head:8088"


def config(mode="cleaner", **sections):
    return OmegaConf.create({"trainer": {"use_v1": True, "v1": {"trainer_mode": mode}}} | sections)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in driver.FORWARDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CODE_JUDGE_URL", JUDGE)


def test_rays_workers_are_told_where_the_judge_is_and_where_logs_go(monkeypatch):
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", "/shared/metrics.jsonl")
    variables = get_ppo_ray_runtime_env(config())["env_vars"]
    assert {name: variables.get(name) for name in driver.FORWARDED} == {
        "CODE_JUDGE_URL": JUDGE,
        "VERL_FILE_LOGGER_PATH": "/shared/metrics.jsonl",
        "TENSORBOARD_DIR": None,
    }


def test_what_a_job_of_the_cluster_hands_on_is_not_said_twice(monkeypatch):
    """Ray refuses the same variable in the environments of the job and of its driver."""
    monkeypatch.setenv("TENSORBOARD_DIR", "/shared/tensorboard")
    job = {"runtime_env": {"env_vars": {"CODE_JUDGE_URL": JUDGE}, "working_dir": "gcs://package.zip"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    environment = get_ppo_ray_runtime_env(config())
    assert driver.job_variables() == {"CODE_JUDGE_URL"}
    assert environment["env_vars"]["TENSORBOARD_DIR"] == "/shared/tensorboard"
    # Ray's own check, which says None where they disagree.
    assert _merge_runtime_env(job["runtime_env"], environment, override=False) is not None
    environment["env_vars"]["CODE_JUDGE_URL"] = JUDGE
    assert _merge_runtime_env(job["runtime_env"], environment, override=False) is None


def test_a_run_without_cleaner_gets_what_verl_gives_it():
    assert "CODE_JUDGE_URL" not in get_ppo_ray_runtime_env(config(mode="sync"))["env_vars"]
    assert "CODE_JUDGE_URL" not in get_ppo_ray_runtime_env()["env_vars"]


ROLLBACK = {"rollout": {"multi_turn": {"enable_tool_rollback": True}}}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (config(async_training={"partial_rollout": True}, rollout={"nnodes": 1}), "fully_async_policy trains without"),
        (config(rollout={"nnodes": 1}), "one_step_off_policy trains without CLEANER"),
        (config(mode="sync", rollout={"nnodes": 1}, actor_rollout_ref=ROLLBACK), "trainer_mode=cleaner_separate_async"),
        (OmegaConf.merge(config(), {"trainer": {"use_v1": False}}), "trainer.use_v1=False trains without CLEANER"),
    ],
)
def test_a_main_that_would_train_without_cleaner_is_refused_and_says_why(made, words):
    with pytest.raises(PreflightError, match=words) as error:
        get_ppo_ray_runtime_env(made)
    assert str(error.value.problems[0]).endswith("[main]")
    get_ppo_ray_runtime_env(OmegaConf.merge(made, {"trainer": {"skip_checks": ["main"]}}))


def test_a_run_on_cpu_needs_its_platform_from_the_start(monkeypatch):
    made = OmegaConf.merge(config(), {"trainer": {"device": "cpu"}})
    monkeypatch.setenv("VERL_PLATFORM", "nvidia")
    with pytest.raises(PreflightError, match="VERL_PLATFORM=cpu before Python starts, got nvidia"):
        get_ppo_ray_runtime_env(made)
    get_ppo_ray_runtime_env(config())
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    get_ppo_ray_runtime_env(made)


def test_such_a_main_may_run_where_cleaner_is_not_chosen():
    get_ppo_ray_runtime_env(config(mode="sync", async_training={}, rollout={"nnodes": 1}))


@pytest.mark.parametrize("name", ["fully_async_policy.fully_async_main", "one_step_off_policy.main_ppo"])
def test_verls_experimental_mains_are_told_by_their_sections(name):
    """Composed from the packages' own YAML, as their mains do; the searchpath of one is that of a checkout."""
    from importlib.resources import files

    folder = files("verl.experimental") / name.split(".")[0] / "config"
    (file,) = (
        path for path in folder.iterdir() if path.name.endswith("ppo_trainer.yaml") and "megatron" not in path.name
    )
    sections = OmegaConf.create(file.read_text())
    made = config(**{key: sections[key] for key in ("async_training", "rollout") if key in sections})
    with pytest.raises(PreflightError, match=name.split(".")[0]):
        get_ppo_ray_runtime_env(made)
