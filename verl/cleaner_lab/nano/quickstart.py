"""`quickstart.sh` behind its environment and judge: cold start, training with progress, and what came out of it."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from cleaner_lab.nano.arms import BASELINE, CLEANER, Arm, Outcome
from cleaner_lab.nano.cold_start import cold_start
from cleaner_lab.nano.curves import held_out_accuracy
from cleaner_lab.nano.settings import Settings
from verl_cleaner.launch import Run, RunFailed


def main() -> None:
    options, overrides = _parse()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    arms = (BASELINE, CLEANER) if options.compare else (BASELINE,) if options.baseline else (CLEANER,)
    out = Path(os.environ.get("OUTPUT_DIR") or f"outputs/quickstart/{time.strftime('%Y%m%d-%H%M%S')}")
    start = Path(f"outputs/nano/seed{options.seed}")
    try:
        _cold_start(start, options.seed)
        outcomes = [train(arm, out / arm.name, start, options, overrides) for arm in arms]
    except KeyboardInterrupt:
        sys.exit("\n[cleaner] stopped")
    except RunFailed as error:
        sys.exit(f"[cleaner] error: {error}")
    from cleaner_lab.nano.summary import show

    show(outcomes, start, out)


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="quickstart.sh",
        allow_abbrev=False,
        usage="%(prog)s [--steps N] [--baseline | --compare] [--seed S] [key=value ...]",
        description="Train a small policy with CLEANER on CPU; key=value are Hydra overrides.",
    )
    parser.add_argument("--steps", type=int, default=24, help="RL steps (default: %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--baseline", action="store_true", help="without rollback")
    which.add_argument("--compare", action="store_true", help="baseline and CLEANER from the same cold start and seeds")
    parser.add_argument("--seed", type=int, default=0, help="of cold start, tasks and sampling (default: %(default)s)")
    options, rest = parser.parse_known_args()
    unknown = [text for text in rest if "=" not in text or text.startswith("--")]
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}; expected an option above or a Hydra override key=value")
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    return options, rest


def _cold_start(folder: Path, seed: int) -> None:
    if cold_start(folder, Settings(seed=seed)):
        print(f"[cleaner] cold start saved to {folder}")
    else:
        print(f"[cleaner] cold start: {folder}, from an earlier run")


def train(arm: Arm, folder: Path, start: Path, options: argparse.Namespace, overrides: list[str]) -> Outcome:
    """Run one arm with a line a step. Raises RunFailed."""
    print(f"[cleaner] {arm.name}: starting Ray, the actor and the rollout server (log: {folder}/train.log)")
    settings = [
        "--config-name=quickstart",
        f"hydra.run.dir={folder}/hydra",
        f"actor_rollout_ref.model.path={start}/model",
        f"data.train_files={start}/data/train.parquet",
        f"data.val_files={start}/data/val.parquet",
        f"data.seed={options.seed}",
        f"actor_rollout_ref.rollout.seed={options.seed}",
        f"trainer.experiment_name={arm.name}",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.rollout_data_dir={folder}/rollouts",
        f"trainer.validation_data_dir={folder}/validation",
        f"trainer.total_training_steps={options.steps}",
        f"trainer.save_freq={options.steps}",
        f"trainer.test_freq={max(1, options.steps // 2)}",
    ]
    begin = time.monotonic()
    steps: list[tuple[int, dict[str, Any]]] = []
    with Run(folder, [*settings, *arm.overrides, *overrides]) as run:
        waiting = begin
        for entry in run.steps():
            now = time.monotonic()
            if entry is not None:
                steps.append(entry)
                waiting = now
                print(step_line(*entry, total=options.steps))
            elif now - waiting > 15:
                waiting = now
                print(f"[cleaner] {arm.name}: {now - begin:.0f} s")
    return Outcome(arm, folder, steps, time.monotonic() - begin)


def step_line(step: int, metrics: dict[str, Any], *, total: int) -> str:
    """One line a step: accuracy, tool failures a trajectory, rollbacks, seconds."""
    held_out = held_out_accuracy(metrics)
    parts = [f"  step {step:>3}/{total}"]
    if "critic/score/acc" in metrics:
        parts.append(f"accuracy {metrics['critic/score/acc']:.3f}")
        parts.append(
            f"tool failures/trajectory {metrics['tool_calls/sampled_failures_per_trajectory']:.2f} sampled, "
            f"{metrics['tool_calls/failures_per_trajectory']:.2f} left"
        )
    if "rollback/global_triggered" in metrics:
        parts.append(
            f"rollbacks {metrics['rollback/global_triggered']:.0f}, {metrics['rollback/global_recovered']:.0f} repaired"
        )
    if held_out is not None:
        parts.append(f"held-out {held_out:.3f}")
    if "timing_s/step" in metrics:
        parts.append(f"{metrics['timing_s/step']:.1f} s")
    return "  ".join(parts)


if __name__ == "__main__":
    main()
