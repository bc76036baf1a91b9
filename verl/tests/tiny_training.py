"""A training of the whole system on CPU, in processes of its own: a tiny random policy, an agent loop of the tests."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tiny import tiny_dataset, tiny_model

TESTS = Path(__file__).parent


def train(
    folder: Path, judge: str, loop: str, overrides: Sequence[str]
) -> tuple["subprocess.CompletedProcess[str]", dict[int, dict[str, float]]]:
    """Two steps of ten groups with the agent loop and the reward of `LOOP_loop.py`; returns the ended process and the
    metrics by step. Everything lies in `folder`, what was printed in `folder/log`."""
    tiny_model(folder / "model")
    tiny_dataset(folder / "train.parquet", rows=20)
    (folder / "loops.yaml").write_text(f"- name: {loop}\n  _target_: {loop}_loop.{loop.title()}Loop\n")
    metrics = folder / "metrics.jsonl"
    command = [sys.executable, "-m", "verl_cleaner.main_ppo", "--config-name", "cleaner_cpu"]
    command += [
        f"hydra.run.dir={folder / 'hydra'}",
        f"actor_rollout_ref.model.path={folder / 'model'}",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'train.parquet'}",
        "data.shuffle=False",
        "data.train_batch_size=10",
        "data.max_prompt_length=100",
        "data.max_response_length=24",
        "algorithm.adv_estimator=grpo",
        f"actor_rollout_ref.rollout.agent.default_agent_loop={loop}",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={folder / 'loops.yaml'}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=5",
        f"reward.custom_reward_function.path={TESTS / f'{loop}_loop.py'}",
        "reward.custom_reward_function.name=reward",
        "trainer.total_training_steps=2",
        "trainer.logger=[console,file]",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        "trainer.resume_mode=disable",
        *overrides,
    ]
    environment = os.environ | {
        "PYTHONPATH": str(TESTS),
        "CODE_JUDGE_URL": judge,
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "OMP_NUM_THREADS": "1",
        "VERL_PLATFORM": "cpu",
    }
    process = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=folder)
    (folder / "log").write_text(process.stdout + process.stderr)
    assert metrics.exists(), process.stdout[-4000:] + process.stderr[-6000:]
    return process, {line["step"]: line["data"] for line in map(json.loads, metrics.read_text().splitlines())}
