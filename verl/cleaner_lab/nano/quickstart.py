"""`quickstart.sh` behind its environment and judge: training with progress, and what came out of it."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from cleaner_lab.nano import shipped
from cleaner_lab.nano.arms import BASELINE, CLEANER, LEAVES_HALF, Arm, Outcome
from cleaner_lab.nano.cold_start import cold_start
from cleaner_lab.nano.progress import LEGEND, SECONDS_BETWEEN_LINES, Log, opening, step_line
from cleaner_lab.nano.settings import Settings
from verl_cleaner.launch import Run, RunFailed


def main() -> None:
    options, overrides = _parse()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    arms = (BASELINE, CLEANER, LEAVES_HALF) if options.compare else (BASELINE,) if options.baseline else (CLEANER,)
    out = Path(os.environ.get("OUTPUT_DIR") or f"outputs/quickstart/{time.strftime('%Y%m%d-%H%M%S')}")
    print(opening(options.steps, arms, fresh=options.fresh))
    try:
        start = _cold_start(options)
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
        usage="%(prog)s [--steps N] [--baseline | --compare] [--seed S] [--fresh] [key=value ...]",
        description="Train a small policy with CLEANER on CPU; key=value are Hydra overrides.",
    )
    parser.add_argument("--steps", type=int, default=24, help="RL steps (default: %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--baseline", action="store_true", help="without rollback")
    which.add_argument(
        "--compare",
        action="store_true",
        help="baseline, CLEANER, and leaves with half of each group repaired, from the same cold start and seeds",
    )
    parser.add_argument("--seed", type=int, default=0, help="of data order and sampling (default: %(default)s)")
    parser.add_argument(
        "--fresh", action="store_true", help="train the cold start, instead of the one that is shipped, with this seed"
    )
    options, rest = parser.parse_known_args()
    unknown = [text for text in rest if "=" not in text or text.startswith("--")]
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}; expected an option above or a Hydra override key=value")
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    return options, rest


def _cold_start(options: argparse.Namespace) -> Path:
    settings = Settings(seed=options.seed) if options.fresh else Settings()
    if not options.fresh and (folder := shipped.find(settings)):
        return folder
    folder = Path(f"outputs/nano/seed{settings.seed}")
    if cold_start(folder, settings):
        print(f"[cleaner] cold start saved to {folder}")
    else:
        print(f"[cleaner] cold start: {folder}, from an earlier run")
    return folder


def train(arm: Arm, folder: Path, start: Path, options: argparse.Namespace, overrides: list[str]) -> Outcome:
    """Run one arm with a line a step, and one of its repairs as soon as there is one. Raises RunFailed."""
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
        "trainer.validate_with_rollback=True",
        f"trainer.total_training_steps={options.steps}",
        f"trainer.save_freq={options.steps}",
        f"trainer.test_freq={max(1, options.steps // 2)}",
    ]
    begin = waiting = time.monotonic()
    steps: list[tuple[int, dict[str, Any]]] = []
    repair: list[str] = []
    with Run(folder, [*settings, *arm.overrides, *overrides]) as run:
        log = Log(run.log)
        print(f"[cleaner] {arm.name}: starting Ray (log: {run.log})")
        for entry in run.steps():
            now = time.monotonic()
            if entry is not None:
                if not any(step for step, _ in steps) and entry[0]:
                    print(LEGEND)
                steps.append(entry)
                print(step_line(*entry, total=options.steps))
                repair = repair or _show_repair(folder, *entry)
            elif now - waiting < SECONDS_BETWEEN_LINES:
                continue
            else:
                print(f"[cleaner] {arm.name}: {now - begin:.0f} s, {log.phase()}")
            waiting = now
    return Outcome(arm, folder, steps, time.monotonic() - begin)


def _show_repair(folder: Path, step: int, metrics: dict[str, Any]) -> list[str]:
    """What was printed."""
    if not metrics.get("rollback/global_recovered"):
        return []
    from cleaner_lab.nano.repair import repair_lines

    lines = repair_lines(folder, step)
    for line in lines:
        print(line)
    return lines


if __name__ == "__main__":
    main()
