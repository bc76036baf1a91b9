"""What the evaluation scripts start: the runner with the published settings, which pass the preflight."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from composing import composed as basis
from composing import overridden
from omegaconf import OmegaConf

from verl_cleaner.evaluation.__main__ import _evaluation, _parse
from verl_cleaner.evaluation.runner import overrides

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = [f"eval_{model}_{suites}" for model in ("qwen3_4b", "qwen2_7b") for suites in ("aime_gpqa", "livecodebench")]
R = "actor_rollout_ref.rollout"


def run(script, *arguments, **knobs):
    kept = {"PATH", "HOME", "LANG", "PYTHONDONTWRITEBYTECODE"}
    environment = {key: value for key, value in os.environ.items() if key in kept}
    return subprocess.run(
        ["bash", f"recipe/cleaner/eval/{script}.sh", *arguments],
        cwd=REPOSITORY,
        env=environment | knobs,
        capture_output=True,
        text=True,
        timeout=60,
    )


def evaluation(script, *arguments, **knobs):
    process = run(script, *arguments, DRY_RUN="1", **knobs)
    assert process.returncode == 0, process.stderr
    words = shlex.split(process.stdout)
    assert words[1:4] == ["-m", "verl_cleaner.evaluation", "run"]
    return _evaluation(_parse(words[3:]))


def composed(it):
    name, *words = overrides(it, it.rollback[0])
    return overridden(basis(name.removeprefix("--config-name=")), words)


@pytest.mark.parametrize("script", SCRIPTS)
def test_settings_of_the_published_numbers(script, monkeypatch):
    from verl_cleaner import preflight
    from verl_cleaner.preflight.checks import CONFIGURATION, findings

    it = evaluation(script)
    code = script.endswith("livecodebench")
    assert it.samples == (10 if code else 16 if "4b" in script else 32)
    assert it.suites == (("livecodebench",) if code else ("aime2024", "aime2025", "gpqa"))
    assert (it.rollback, it.retries) == (("rollback",), 3)
    assert it.model == f"Gen-Verse/{'Qwen3-4B' if '4b' in script else 'Qwen2.5-7B'}-RA-SFT"
    assert it.out == Path("outputs/eval") / Path(it.model).name / "+".join(it.suites)
    config = composed(it)
    expected = {
        "data.max_prompt_length": 4096,
        "data.max_response_length": 20480,
        f"{R}.multi_turn.max_assistant_turns": 16,
        f"{R}.multi_turn.enable_tool_rollback": True,
        f"{R}.multi_turn.max_tool_retries": 3,
        f"{R}.val_kwargs.top_p": 0.6,
        f"{R}.val_kwargs.temperature": 1.0,
        f"{R}.val_kwargs.do_sample": True,
        f"{R}.val_kwargs.n": it.samples,
        f"{R}.dtype": "float16",
        f"{R}.name": "sglang",
        "trainer.val_only": True,
        "reward.custom_reward_function.path": "pkg://verl_cleaner.reward.router",
        "reward.reward_manager.name": "naive",
    }
    assert {key: OmegaConf.select(config, key) for key in expected} == expected
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    preflight.prepare(config)
    assert findings(config, CONFIGURATION) == []


def test_knobs_and_overrides_reach_the_runner():
    knobs = {"SAMPLES": "4", "ROLLBACK": "both", "RETRIES": "2", "CHUNK": "8", "LIMIT": "5", "VAL_SAVE_PATH": "there"}
    it = evaluation("eval", "/a/model", "gpqa", "data.max_response_length=99", PROMPT_SOURCES="mine.yaml", **knobs)
    assert (it.model, it.suites, it.out) == ("/a/model", ("gpqa",), Path("there"))
    assert (it.samples, it.rollback, it.retries, it.chunk, it.limit) == (4, ("rollback", "plain"), 2, 8, 5)
    assert it.sources == "mine.yaml"
    assert composed(it).data.max_response_length == 99
    assert evaluation("eval_qwen3_4b_aime_gpqa", MODEL_PATH="/mine", ROLLBACK="off").rollback == ("plain",)


def test_on_cpu_it_is_the_quickstarts_configuration():
    it = evaluation("eval", "/a/model", "/data/val.parquet", "/data/more.jsonl.gz", ROLLOUT="cpu", SEED="3")
    assert it.config == "quickstart"
    assert it.out == Path("outputs/eval/model/val+more.jsonl")
    config = composed(it)
    assert (config.trainer.device, OmegaConf.select(config, f"{R}.seed")) == ("cpu", 3)
    assert config.reward.custom_reward_function.path == "pkg://verl_cleaner.reward.router"


@pytest.mark.parametrize("script", ["eval", *SCRIPTS])
def test_help_tells_every_knob(script):
    process = run(script, "--help")
    assert process.returncode == 0
    for knob in (
        "VAL_SAVE_PATH",
        "SAMPLES",
        "ROLLBACK",
        "RETRIES",
        "CHUNK",
        "LIMIT",
        "NUM_GPU",
        "ROLLOUT",
        "MAX_MEMORY",
    ):
        assert f"\n  {knob} " in process.stdout
    limits = re.findall(r"MAX_(?:EXECUTION_TIME|MEMORY) .*\n +now: (\d+)", process.stdout)
    assert limits == (["6", "1024"] if script.endswith("livecodebench") else ["4", "1024"])
    second = (REPOSITORY / f"recipe/cleaner/eval/{script}.sh").read_text().splitlines()[1]
    assert second.removeprefix("# ") in process.stdout
