"""Several seeds of `quickstart.sh --compare` in one table and one figure.

python -m cleaner_lab.nano.seeds outputs/quickstart/A outputs/quickstart/B … --figure curves.png
"""

import argparse
from pathlib import Path

from cleaner_lab.nano.arms import BASELINE, CLEANER, LEAVES_HALF
from cleaner_lab.nano.curves import Steps, family_accuracies, held_out_accuracy, plot
from cleaner_lab.nano.tasks import UNSEEN
from verl_cleaner.records.metrics import read_steps
from verl_cleaner.report.intervals import interval
from verl_cleaner.report.tables import format_table

METHODS = [arm.name for arm in (BASELINE, CLEANER, LEAVES_HALF)]
_FAILURES = "val-aux/tool_calls/failures_per_trajectory"


def steps_of(folder: Path) -> Steps:
    """Raises ValueError where the folder holds no finished run."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected a folder that quickstart.sh --compare wrote")
    steps = list(read_steps(path).items())
    if not steps or held_out_accuracy(steps[-1][1]) is None:
        raise ValueError(f"{path} does not end with a validation; the run was not finished")
    return steps


def table(methods: dict[str, list[Steps]]) -> list[list[str]]:
    """A row for the cold start and one per method: mean ± standard deviation over the seeds, and each seed."""
    rows = [["", "held-out accuracy", "each seed", f"unseen family ({UNSEEN})", "tool failures a trajectory"]]
    groups = {"cold start": [run[0] for run in methods[BASELINE.name]]}
    groups |= {f"{name}, step {runs[0][-1][0]}": [run[-1] for run in runs] for name, runs in methods.items()}
    for name, ends in groups.items():
        held_out = [value for _, metrics in ends if (value := held_out_accuracy(metrics)) is not None]
        unseen = [family_accuracies(metrics)[UNSEEN] for _, metrics in ends]
        failures = [float(metrics[_FAILURES]) for _, metrics in ends]
        each = " ".join(f"{value:.3f}" for value in held_out)
        rows.append([name, _spread(held_out), each, _spread(unseen), _spread(failures)])
    return rows


def _spread(values: list[float]) -> str:
    found = interval(values)
    assert found is not None, "a finished run has validated"
    return f"{found.mean:.3f}" + ("" if found.sd is None else f" ± {found.sd:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help=f"one a seed, each with {', '.join(METHODS)}")
    parser.add_argument("--figure", type=Path, help="write the curves here (PNG)")
    options = parser.parse_args()
    try:
        methods = {name: [steps_of(folder / name) for folder in options.folders] for name in METHODS}
    except ValueError as error:
        parser.error(str(error))
    print(format_table(table(methods)))
    if options.figure:
        plot(methods, options.figure)


if __name__ == "__main__":
    main()
