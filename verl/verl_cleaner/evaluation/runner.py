"""Run an evaluation: VeRL's validation through `verl_cleaner.main_ppo`, in chunks that are kept, once with rollback,
once without, or both.

A problem is done when all its samples are on disk. Done problems are not run again. Problems that an outage cost are.
"""

import hashlib
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_cleaner.evaluation.suites import Problem, digest, read_suite, write_problems
from verl_cleaner.launch import Run
from verl_cleaner.records.trajectories import Trajectory, read_folder

_TURNS = "actor_rollout_ref.rollout.multi_turn"
_ROUTER = "pkg://verl_cleaner.reward.router"
ROLLBACK, PLAIN = "rollback", "plain"
ARMS = (ROLLBACK, PLAIN)
_SHOWN_EVERY = 15.0
_TRAINING_ROWS = 64
"""VeRL requires a training set and batch sizes even where nothing is trained."""

_DECIDES = (
    "actor_rollout_ref.rollout.dtype", "actor_rollout_ref.rollout.max_model_len", f"{_TURNS}.",
    "actor_rollout_ref.rollout.seed", "actor_rollout_ref.rollout.agent.", "actor_rollout_ref.rollout.val_kwargs.",
    "actor_rollout_ref.model.", "data.max_", "reward.custom_reward_function.",
)  # fmt: skip
"""Overrides that decide what an answer is, by how they begin; the others say where and how fast it is computed."""
_JUDGE = ("MAX_EXECUTION_TIME", "MAX_MEMORY", "MAX_OUTPUT_SIZE")
"""Variables of the judge that decide which calls and programs pass."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """model: folder or hub name. suites: names or data files. rollback: the arms to run, of ARMS. chunk: problems that
    are sampled together and kept together. limit: problems of each suite, None for all. retries: K of the rollback.
    config: of `verl_cleaner.main_ppo`. sources: YAML of the user's own. overrides: Hydra's. accuracy_only: end a
    program's tests at the first that fails, and ask math-verify beside the strict rule; False: as in training."""

    model: str
    suites: tuple[str, ...]
    out: Path
    samples: int
    rollback: tuple[str, ...] = ARMS
    chunk: int = 64
    limit: int | None = None
    retries: int = 3
    tools: bool = True
    config: str = "cleaner"
    sources: str | None = None
    overrides: tuple[str, ...] = ()
    accuracy_only: bool = True


class EvaluationError(Exception):
    """The evaluation cannot start or continue; the message says why."""


def run(evaluation: Evaluation, say: Callable[[str], None] = print) -> list[Problem]:
    """Returns the problems.

    Raises:
        ValueError: unknown suite, unusable data.
        EvaluationError: the folder holds another evaluation, or problems were lost.
        verl_cleaner.launch.RunFailed: the validation ended with an error; what was done is kept.
    """
    problems = [
        problem
        for suite in evaluation.suites
        for problem in read_suite(suite, sources=evaluation.sources, tools=evaluation.tools, limit=evaluation.limit)
    ]
    _claim(evaluation.out, settings(evaluation, problems))
    for arm in evaluation.rollback:
        _run_arm(evaluation, arm, problems, say)
    return problems


def settings(evaluation: Evaluation, problems: Sequence[Problem]) -> dict[str, Any]:
    """What makes two evaluations comparable; equal ones may share a folder."""
    by_suite = {suite: [p for p in problems if p.suite == suite] for suite in evaluation.suites}
    return {
        "model": evaluation.model,
        "weights": _model_digest(evaluation.model),
        "samples": evaluation.samples,
        "problems": {suite: len(found) for suite, found in by_suite.items()},
        "data": {suite: digest(found) for suite, found in by_suite.items()},
        "rollback_retries": evaluation.retries,
        "tools": evaluation.tools,
        "config": evaluation.config,
        "accuracy_only": evaluation.accuracy_only,
        "judge": {name: os.environ.get(name) for name in _JUDGE},
        "overrides": sorted(text for text in evaluation.overrides if text.lstrip("+").startswith(_DECIDES)),
    }


def _model_digest(model: str) -> str:
    """Of a folder's configuration and of its weights' sizes and times; empty for a hub name."""
    folder = Path(model)
    if not folder.is_dir():
        return ""
    state = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin"):
            state.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
        elif path.name == "config.json":
            state.update(path.read_bytes())
    return state.hexdigest()[:16]


def _claim(out: Path, wanted: Mapping[str, Any]) -> None:
    path = out / "settings.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1) + "\n")
        return
    there = json.loads(path.read_text())
    different = [key for key in wanted if there.get(key) != wanted[key]]
    if different:
        changes = "; ".join(f"{key}: begun with {there.get(key)}, now {wanted[key]}" for key in different)
        raise EvaluationError(
            f"{out} holds an evaluation with other settings ({changes}); give the same settings to go on with it, or "
            "another folder (VAL_SAVE_PATH, --out)"
        )


def problem_of(trajectory: Trajectory) -> tuple[str, str]:
    """The key of the problem: suite and the benchmark's id."""
    return str(trajectory.suite), str(trajectory.problem)


def done(folder: Path, samples: int) -> set[tuple[str, str]]:
    """Keys of the problems all of whose samples are there.

    Raises:
        EvaluationError: the trajectories are of an older version of this package.
    """
    if any(folder.glob("*.jsonl")):
        raise EvaluationError(
            f"{folder} holds trajectories of an older version (*.jsonl), expected *.parquet; give another folder "
            "(VAL_SAVE_PATH, --out)"
        )
    counts = Counter(map(problem_of, read_folder(folder, texts=False)))
    return {key for key, count in counts.items() if count >= samples}


def _run_arm(evaluation: Evaluation, arm: str, problems: Sequence[Problem], say: Callable[[str], None]) -> None:
    folder = evaluation.out / arm
    kept = done(folder / "trajectories", evaluation.samples)
    left = [problem for problem in problems if problem.key not in kept]
    if kept:
        say(f"[cleaner] {arm}: {len(kept)} of {len(problems)} problems are done already")
    if not left:
        return
    write_problems(folder / "problems.parquet", left)
    write_problems(folder / "training.parquet", left[:1] * _TRAINING_ROWS)
    say(f"[cleaner] {arm}: {len(left)} problems × {evaluation.samples} samples, starting (log: {folder}/train.log)")
    _follow(Run(folder, overrides(evaluation, arm)), arm, folder, math.ceil(len(left) / evaluation.chunk), say)
    missing = [problem for problem in left if problem.key not in done(folder / "trajectories", evaluation.samples)]
    if missing:
        raise EvaluationError(
            f"{arm}: {len(missing)} of {len(left)} problems were lost to outages or to errors of the reward function, "
            f"among them {missing[0].suite} {missing[0].id}; the same command runs them again (log: {folder}/train.log)"
        )


def _follow(run: Run, arm: str, folder: Path, chunks: int, say: Callable[[str], None]) -> None:
    before = _files(folder)
    start = shown = time.monotonic()
    finished = 0
    with run:
        for _ in run.steps():
            now, new = time.monotonic(), _files(folder) - before
            if new > finished or now - shown > _SHOWN_EVERY:
                finished, shown = new, now
                say(f"[cleaner] {arm}: {finished} of {chunks} chunks, {now - start:.0f} s")
    say(f"[cleaner] {arm}: finished in {time.monotonic() - start:.0f} s")


def _files(folder: Path) -> int:
    return sum(1 for _ in (folder / "trajectories").glob("*.parquet"))


def overrides(evaluation: Evaluation, arm: str) -> list[str]:
    """Hydra's arguments: ours that the user may change, the user's, and what the runner relies on."""
    folder = evaluation.out / arm
    ours = {"reward.custom_reward_function.path": _ROUTER, "actor_rollout_ref.rollout.val_kwargs.do_sample": True}
    own_reward = [text for text in evaluation.overrides if text.startswith("reward.custom_reward_function.path=")]
    if not own_reward or own_reward[-1].endswith(_ROUTER):
        sources = _quoted(evaluation.sources) if evaluation.sources else None
        accuracy = evaluation.accuracy_only
        kwargs = {"math_verify": accuracy, "early_stop": accuracy, "sources": sources}
        ours |= {
            f"+reward.custom_reward_function.reward_kwargs.{name}": value for name, value in kwargs.items() if value
        }
    if arm == ROLLBACK:
        ours |= {f"+{_TURNS}.enable_tool_rollback": True, f"+{_TURNS}.max_tool_retries": evaluation.retries}
    # Hydra refuses to add a key twice.
    given = {text.partition("=")[0].lstrip("+") for text in evaluation.overrides}
    changeable = [f"{key}={value}" for key, value in ours.items() if key.lstrip("+") not in given]
    fixed = {
        "hydra.run.dir": _quoted(folder / "hydra"),
        "actor_rollout_ref.model.path": _quoted(evaluation.model),
        f"{_TURNS}.enable": evaluation.tools,
        "actor_rollout_ref.rollout.val_kwargs.n": evaluation.samples,
        "actor_rollout_ref.actor.ppo_mini_batch_size": _TRAINING_ROWS,
        # The problems are worded already.
        "data.custom_cls.path": "null",
        "data.train_files": _quoted(folder / "training.parquet"),
        "data.val_files": _quoted(folder / "problems.parquet"),
        "data.train_batch_size": _TRAINING_ROWS,
        "data.val_batch_size": evaluation.chunk,
        "data.validation_shuffle": False,
        "data.filter_overlong_prompts": False,
        # No overlong shaping: the answer's own score.
        "reward.reward_manager.name": "naive",
        "trainer.val_only": True,
        "trainer.val_before_train": True,
        "trainer.resume_mode": "disable",
        "trainer.total_training_steps": 1,
        "trainer.logger": "[console,file]",
        "trainer.default_local_dir": _quoted(folder / "checkpoints"),
        "trainer.rollout_data_dir": "null",
        "trainer.validation_data_dir": "null",
        "trainer.trajectories_dir": _quoted(folder / "trajectories"),
    }
    names = [f"--config-name={evaluation.config}", *changeable, *evaluation.overrides]
    return [*names, *(f"{key}={value}" for key, value in fixed.items())]


def _quoted(value: object) -> str:
    """As Hydra's override grammar takes any text: blanks, commas, quotes and `=` included."""
    # Backslashes are doubled only where a quote follows, the closing one included.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), str(value)) + "'"
