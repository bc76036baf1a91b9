"""What a quickstart ends with: a table, curves, the report, and where everything is."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cleaner_lab.nano.arms import Outcome
from cleaner_lab.nano.curves import family_accuracies, plot
from cleaner_lab.nano.progress import WIDTH
from cleaner_lab.nano.tasks import UNSEEN
from verl_cleaner.records.metrics import second_validation
from verl_cleaner.report.intervals import binomial_error
from verl_cleaner.report.tables import format_table
from verl_cleaner.report.write import write_report

EXPLANATION = (
    "Held-out accuracy ± one standard error, of the policy alone and with rollback at test time; unseen family: "
    f"{UNSEEN}, which the training does not have, alone; failed tool calls a trajectory, alone"
)
HEADER = ["", "policy alone", "with rollback", "unseen family", "failed calls"]


def show(outcomes: Sequence[Outcome], start: Path, out: Path) -> None:
    rows = table(outcomes, held_out_sizes(start / "data" / "val.parquet"))
    if rows:
        print(f"\n{textwrap.fill(EXPLANATION, WIDTH)}\n")
        print(format_table([HEADER, *rows]))
    else:
        print("\nNothing was validated (trainer.val_before_train, trainer.test_freq): no held-out accuracy")
    for outcome in outcomes:
        show_repaired(outcome)
    figure = out / "curves.png"
    plot({outcome.arm.name: [outcome.steps] for outcome in outcomes}, figure)
    report = out / "report.html"
    warnings = write_report([outcome.folder for outcome in outcomes], report)
    print(f"\nCurves: {figure}")
    print(f"Report, with trajectories and repairs, for a browser: {report}")
    for warning in warnings:
        print(f"warning: {warning}")
    for outcome in outcomes:
        print(f"{outcome.arm.name}: {outcome.seconds:.0f} s; log, metrics, rollouts, checkpoints in {outcome.folder}")
    print("\nTo try next")
    rollbacks = outcomes[-1].folder / "rollouts" / "rollbacks" / "1.parquet"
    if rollbacks.exists():
        print(f"  every repair of a step\n    .venv/bin/python -m verl_cleaner.replay {rollbacks}")
    print(f"  trajectories in the terminal\n    .venv/bin/python -m verl_cleaner.inspect {out} --repaired")
    print(f"  the metrics in a browser\n    .venv/bin/tensorboard --logdir {out}")
    if len(outcomes) == 1:
        print("  against plain GRPO and leaves\n    bash recipe/cleaner/quickstart.sh --compare")
    print("  another seed, lower learning rate\n    bash recipe/cleaner/quickstart.sh --seed 1 \\")
    print("        actor_rollout_ref.actor.optim.lr=2e-4")


def show_repaired(outcome: Outcome) -> None:
    """How well the untrained policy repairs itself."""
    metrics = dict(outcome.steps).get(1, {})
    triggered, recovered = (int(metrics.get(f"rollback/global_{name}", 0)) for name in ("triggered", "recovered"))
    if triggered:
        share = f"{recovered} of {triggered} failed turns ({recovered / triggered:.0%})"
        print(f"\n{outcome.arm.name}: before any update the policy repaired {share}.")


def held_out_sizes(path: Path) -> dict[str, int]:
    """Tasks per family."""
    import pandas as pd

    sources = pd.read_parquet(path, columns=["data_source"])["data_source"]
    return {source.rsplit("/", 1)[-1]: int(count) for source, count in sources.value_counts().items()}


def table(outcomes: Sequence[Outcome], sizes: Mapping[str, int]) -> list[list[str]]:
    """A row for the cold start and one a run, as far as they were validated."""
    validated = [[(step, m) for step, m in o.steps if family_accuracies(m)] for o in outcomes]
    before = next((found[0][1] for found in validated if found and found[0][0] == 0), None)
    rows = [] if before is None else [["before training", *_cells(before, sizes)]]
    for outcome, found in zip(outcomes, validated, strict=True):
        if found and found[-1][0] > 0:
            step, metrics = found[-1]
            rows.append([f"{outcome.arm.name}, step {step}", *_cells(metrics, sizes)])
    return rows


def _cells(metrics: Mapping[str, Any], sizes: Mapping[str, int]) -> list[str]:
    seen = [family for family in sizes if family != UNSEEN]
    failures = metrics.get("val-aux/tool_calls/failures_per_trajectory")
    return [
        _accuracy(metrics, seen, sizes),
        _accuracy(second_validation(metrics), seen, sizes),
        _accuracy(metrics, [UNSEEN], sizes),
        "–" if failures is None else f"{failures:.3f}",
    ]


def _accuracy(metrics: Mapping[str, Any], families: Sequence[str], sizes: Mapping[str, int]) -> str:
    """Over the tasks of these families; a dash where one of them was not measured."""
    accuracies = family_accuracies(metrics)
    if not accuracies.keys() >= set(families):
        return "–"
    total = sum(sizes[family] for family in families)
    mean = sum(accuracies[family] * sizes[family] for family in families) / total
    return f"{mean:.3f} ± {binomial_error(mean, total):.3f}"
