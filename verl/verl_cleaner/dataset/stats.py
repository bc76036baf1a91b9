"""Success statistics of a data set from trajectories: `python -m verl_cleaner.dataset.stats {write,next} …`.

    write   count the successes of every row in the validation dumps and write the statistics of the rows that have all
            their attempts; the others are counted and left out, so that what is there already can be used
    next    write the next rows without all their attempts as a data set of its own, for another rollout;
            exit status 3: there are none

`recipe/cleaner/rollout_stats.sh` does both in turn until every row has its attempts.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from verl_cleaner.dataset import statistics, trajectories
from verl_cleaner.dataset.schemas import Row, read_rows
from verl_cleaner.dataset.sources import Sources, load
from verl_cleaner.dataset.statistics import BUCKETS, Statistic
from verl_cleaner.dataset.subset import take
from verl_cleaner.dataset.trajectories import Matcher, Question, Trajectory

DONE = 3
"""Exit status of `next` where no row is left."""


def questions_of(dataset: Path, sources: Sources, *, tools: bool) -> list[Question]:
    """One a row. Raises ValueError with file and row where one cannot be used."""
    questions: list[Question] = []
    for number, row in enumerate(tqdm(read_rows(dataset, sources, tools=tools), dataset.name, mininterval=2)):
        if not isinstance(row, Row):
            raise ValueError(f"{dataset}, row {number}: {row}")
        questions.append(Question.of(row))
    return questions


def attempts_by_row(questions: Sequence[Question], dumps: Sequence[Path]) -> dict[str, list[Trajectory]]:
    """By uid, in the order in which they were written.

    Raises:
        ValueError: a trajectory is of none of the rows; names file and row.
    """
    matcher = Matcher(questions)
    found: dict[str, list[Trajectory]] = defaultdict(list)
    for dump in tqdm(dumps, "trajectories", unit="file", disable=not dumps):
        for number, trajectory in enumerate(trajectories.read(dump)):
            uid = matcher.uid(trajectory)
            if uid is None:
                raise ValueError(
                    f"{dump}, row {number}: no row of the data set has this prompt and the ground truth "
                    f"{trajectory.ground_truth[:40]!r}; name the data set, and the --sources and --no_tools, of the run"
                )
            found[uid].append(trajectory)
    return found


def of_rows(questions: Sequence[Question], found: dict[str, list[Trajectory]], attempts: int) -> list[Statistic]:
    """Of the rows with at least `attempts` trajectories, of which the first ones count; in the order of `questions`."""
    return [
        Statistic.of(question.uid, question.data_source, [t.acc for t in first], [t.score for t in first])
        for question in questions
        if len(first := found.get(question.uid, [])[:attempts]) == attempts
    ]


def main() -> int:
    options = _parse()
    try:
        questions = questions_of(options.dataset, load(options.sources), tools=not options.no_tools)
        found = attempts_by_row(questions, trajectories.files(options.trajectories))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    complete = of_rows(questions, found, options.attempts)
    print(f"{len(complete):,} of {len(questions):,} rows have {options.attempts} attempts")
    if options.command == "write":
        statistics.write(options.out, complete)
        rate = sum(s.success_rate for s in complete) / max(1, len(complete))
        print(f"{options.out}: mean success rate {rate:.3f}, {sum(s.keep for s in complete):,} rows worth keeping")
        return 0
    return _next(options, questions, {statistic.uid for statistic in complete})


def _next(options: argparse.Namespace, questions: Sequence[Question], done: set[str]) -> int:
    import pyarrow as pa

    left = {number: {"uid": question.uid} for number, question in enumerate(questions) if question.uid not in done}
    if not left:
        return DONE
    part = dict(list(left.items())[: options.rows])
    take(options.dataset, options.out, part, {"uid": pa.string()})
    print(f"{options.out}: the next {len(part):,} of {len(left):,} rows")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("write", "next"):
        command = commands.add_parser(name)
        command.add_argument("--dataset", type=Path, required=True)
        command.add_argument(
            "--trajectories", type=Path, nargs="*", default=[], help="validation dumps, or folders of them"
        )
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--attempts", type=int, default=BUCKETS, choices=(1, 2, 4, 8), help="a row's")
        command.add_argument("--sources", type=Path, help="the run's data.prompt_sources")
        command.add_argument("--no_tools", action="store_true", help="the run was one without tools")
    command.add_argument("--rows", type=int, default=2048, help="at most so many")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
