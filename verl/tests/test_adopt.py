"""docs/adopt.md: VeRL's own main, the user's YAML, tool, data and reward, and two lines.

The policy knows its part by heart (`parrot`).
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf
from parrot import parrot
from test_commands import LINES

from verl_cleaner.config import rollback_config
from verl_cleaner.preflight import checks
from verl_cleaner.rollout.tools.contract import check_values
from verl_cleaner.rollout.tools.verdict import of_text

pytestmark = pytest.mark.end_to_end(2)

ADOPTED = Path(__file__).parent / "adopted"
PAGE = (Path(__file__).parents[2] / "docs" / "adopt.md").read_text()
R, A, M = (f"actor_rollout_ref.{name}" for name in ("rollout", "actor", "model"))

# What a host without GPU needs beside the user's command.
CPU = ["hydra.searchpath=[pkg://verl.trainer.config,pkg://verl_cleaner.conf]", "+device=cpu"]
VARIABLES = {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "TQ_NUM_THREADS": "1"}


def message(role, content, **rest):
    return {"role": role, "content": content, **rest}


def call(answer):
    function = {"name": "check_answer", "arguments": {"answer": answer}}
    return message("assistant", "", tool_calls=[{"type": "function", "function": function}])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A policy that calls wrongly, repairs its call when it sees the error, and then answers."""
    folder = tmp_path_factory.mktemp("project")
    question, checked = message("user", "3 + 5?"), message("tool", "checked 8")
    error = message("tool", "Error executing tool 'check_answer': could not convert string to float: 'eight'")
    answer = message("assistant", "#### 8")
    answers = [
        ([question], call("eight")),
        ([question, call("eight"), error], call("8")),
        ([question, call("8"), checked], answer),
        ([question, call("eight"), error, call("8"), checked], answer),
    ]
    tools = [OmegaConf.to_container(tool.tool_schema) for tool in OmegaConf.load(ADOPTED / "tools.yaml").tools]
    parrot(folder / "model", answers, tools=tools)
    row = {"data_source": "gsm8k", "prompt": [question], "reward_model": {"ground_truth": "8"}}
    pd.DataFrame([row | {"agent_name": "tool_agent"}] * 4).to_parquet(folder / "data.parquet")
    return folder


# VeRL's own main, whose workers are forks of a process that has imported VeRL and nothing of ours: ten processes import
# it once.
MAIN = """
import os, sys, tempfile
from verl_cleaner.engine.cpu import forkserver

tempfile.tempdir = os.getcwd()
client = forkserver.start(["verl.trainer.ppo.v1.trainer_sync", "verl.workers.engine_workers"])
workers = f'+ray_kwargs.ray_init.runtime_env.py_executable="{client}"'
os.execv(sys.executable, [sys.executable, "-m", "verl.trainer.main_ppo", *sys.argv[1:], workers])
"""


def command(project, *lines):
    return [
        *(sys.executable, "-c", MAIN, f"--config-path={ADOPTED}", "--config-name=gsm8k_multiturn"),
        *(f"data.train_files={project / 'data.parquet'}", f"data.val_files={project / 'data.parquet'}"),
        *("algorithm.adv_estimator=grpo", f"{M}.path={project / 'model'}", f"{R}.n=2", f"{R}.top_k=1"),
        *(f"{A}.ppo_mini_batch_size=2", f"{A}.ppo_micro_batch_size_per_gpu=4"),
        f"{R}.log_prob_micro_batch_size_per_gpu=4",
        f"{R}.multi_turn.tool_config_path={ADOPTED / 'tools.yaml'}",
        f"reward.custom_reward_function.path={ADOPTED / 'reward.py'}",
        *("trainer.val_before_train=False", "trainer.total_training_steps=1", "trainer.save_freq=-1"),
        *("trainer.logger=[console,file]", f"hydra.run.dir={project / 'hydra'}", *CPU, *lines),
    ]


def run(project, *lines):
    """(process, metrics by step)"""
    metrics = project / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VERL_", "RAY_"))} | {
        "PYTHONPATH": str(ADOPTED),
        "VERL_FILE_LOGGER_PATH": str(metrics),
        **VARIABLES,
    }
    process = subprocess.run(
        command(project, *lines), capture_output=True, text=True, timeout=570, env=environment, cwd=project
    )
    found = map(json.loads, metrics.read_text().splitlines()) if metrics.exists() else ()
    return process, {entry["step"]: entry["data"] for entry in found}


def test_a_first_repaired_turn(project):
    process, steps = run(project, *LINES.split())
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    metrics = steps[1]
    assert metrics["rollback/global_triggered"] == metrics["rollback/global_recovered"] == 4
    assert metrics["tool_calls/first_attempt_success_rate"] == 0
    assert metrics["critic/score/mean"] == 1


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_has_these_two_lines():
    added = [line.removeprefix("+").strip(" \\") for line in PAGE.splitlines() if re.match(r"\+ ", line)]
    for line in LINES.split():
        assert added.count(line) == 3


def test_the_page_has_the_words_for_a_host_without_gpu():
    section = PAGE.partition("### Without a GPU")[2].partition("### ")[0]
    words = shlex.split(re.search(r"```\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " "))
    assert [word for word in words if "=" in word] == [*(f"{name}={value}" for name, value in VARIABLES.items()), *CPU]


def test_the_pages_contract_finds_errors_in_text():
    contract = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    patterns = contract["*"]["on_text"]
    check_values(rollback_config({"tool_contracts": contract}).contracts)
    text = "Traceback (most recent call last):\n  File \"a.py\", line 1\nNameError: name 'x' is not defined"
    assert of_text(text, patterns) == "NameError"
    assert of_text("the NameError is gone", patterns) is None


def test_the_page_lists_every_check():
    rows = PAGE[PAGE.index("| check | error |") :].partition("\n\n")[0].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(checks.NAMES)
