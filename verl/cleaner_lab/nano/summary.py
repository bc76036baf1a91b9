"""What a quickstart ends with: a table, one repaired turn, curves, the report, and where everything is."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleaner_lab.nano.arms import Outcome
from cleaner_lab.nano.curves import family_accuracies, plot
from cleaner_lab.nano.tasks import UNSEEN
from verl_cleaner.records.rollbacks import read
from verl_cleaner.replay import show as lines_of
from verl_cleaner.report.intervals import binomial_error
from verl_cleaner.report.tables import format_table
from verl_cleaner.report.write import write_report


def show(outcomes: Sequence[Outcome], start: Path, out: Path) -> None:
    sizes = held_out_sizes(start / "data" / "val.parquet")
    print(f"\nHeld-out tasks, without test-time rollback (± one standard error; {sum(sizes.values())} tasks)\n")
    print(format_table(table(outcomes, sizes)))
    for outcome in outcomes:
        show_repair(outcome)
    figure = out / "curves.png"
    plot({outcome.arm.name: [outcome.steps] for outcome in outcomes}, figure)
    print(f"\nCurves: {figure}")
    report = out / "report.html"
    for warning in write_report([outcome.folder for outcome in outcomes], report):
        print(f"warning: {warning}")
    print(f"Report, with trajectories and repairs, for a browser: {report}")
    for outcome in outcomes:
        print(f"{outcome.arm.name}: {outcome.seconds:.0f} s; log, metrics, rollouts, checkpoints: {outcome.folder}")
    print("\nTo try next")
    rollbacks = outcomes[-1].folder / "rollouts" / "rollbacks" / "1.parquet"
    if rollbacks.exists():
        print(f"  every repair of a step       .venv/bin/python -m verl_cleaner.replay {rollbacks}")
    print(f"  trajectories in the terminal .venv/bin/python -m verl_cleaner.inspect {out} --repaired")
    print(f"  the metrics in a browser     .venv/bin/tensorboard --logdir {out}")
    print("  against plain GRPO           bash recipe/cleaner/quickstart.sh --compare")
    print("  another seed, lower rate     quickstart.sh --seed 1 actor_rollout_ref.actor.optim.lr=2e-4")


def show_repair(outcome: Outcome) -> None:
    """How well the untrained policy repairs itself, and one of the turns it repaired at once."""
    metrics = dict(outcome.steps).get(1, {})
    triggered = int(metrics.get("rollback/global_triggered", 0))
    if not triggered:
        return
    recovered = int(metrics["rollback/global_recovered"])
    share = recovered / triggered
    print(f"\nBefore any update the policy repaired {recovered} of {triggered} failed turns ({share:.0%}).")
    repair = first_repair(read(outcome.folder / "rollouts" / "rollbacks" / "1.parquet"))
    if repair is not None:
        print("\nA repaired turn (- failed, ! error, + as trained)")
        print("\n".join(f"  {line}" for line in lines_of(repair)))


def first_repair(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A turn of a step's dump whose first retry ran; rather an exception than a call that did not parse."""
    retried = Counter((row["uid"], row["rollout"], row["turn"]) for row in rows)
    repaired = [
        row for row in rows if row["result"] == "overwritten" and retried[row["uid"], row["rollout"], row["turn"]] == 1
    ]
    return min(repaired, key=lambda row: not row["kinds"][0][:1].isupper(), default=None)


def held_out_sizes(path: Path) -> dict[str, int]:
    """Tasks per family."""
    import pandas as pd

    sources = pd.read_parquet(path, columns=["data_source"])["data_source"]
    return {source.rsplit("/", 1)[-1]: int(count) for source, count in sources.value_counts().items()}


def table(outcomes: Sequence[Outcome], sizes: dict[str, int]) -> list[list[str]]:
    """Header and rows; one column for before and one per run for after."""
    validated = [[(step, m) for step, m in o.steps if family_accuracies(m)] for o in outcomes]
    columns = [("before", validated[0][0][1])]
    columns += [(f"{o.arm.name}, step {v[-1][0]}", v[-1][1]) for o, v in zip(outcomes, validated, strict=True)]
    rows = [["", *(name for name, _ in columns)]]
    seen = [family for family in sizes if family != UNSEEN]
    rows.append(["accuracy, families of the training", *(_accuracy(m, seen, sizes) for _, m in columns)])
    rows.append([f"accuracy, unseen family ({UNSEEN})", *(_accuracy(m, [UNSEEN], sizes) for _, m in columns)])
    for title, key in (
        ("tool failures a trajectory", "val-aux/tool_calls/failures_per_trajectory"),
        ("first attempts that succeed", "val-aux/tool_calls/first_attempt_success_rate"),
    ):
        rows.append([title, *(f"{m[key]:.3f}" for _, m in columns)])
    return rows


def _accuracy(metrics: dict[str, Any], families: Sequence[str], sizes: dict[str, int]) -> str:
    accuracies = family_accuracies(metrics)
    total = sum(sizes[family] for family in families)
    mean = sum(accuracies[family] * sizes[family] for family in families) / total
    return f"{mean:.3f} ± {binomial_error(mean, total):.3f}"
