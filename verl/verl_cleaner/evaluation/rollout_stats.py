"""How often a model solves each row of a data set: `recipe/cleaner/rollout_stats.sh` calls this.

    python -m verl_cleaner.evaluation.rollout_stats --dataset FILE --evaluation DIR --out FILE [--attempts 8]
        [--model MODEL [--rollback] [--no_tools] [--sources YAML] [--chunk 256] [--limit ROWS] [key=value …]]

With --model the rows are rolled out first, as an evaluation over the data set (`verl_cleaner.evaluation`) in DIR; the
same command goes on with an interrupted one. Then, and also when the rollout is interrupted or fails, the statistics of
all rows that have their attempts are written to FILE. Without --model they are those of what DIR holds.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from verl_cleaner.dataset import reading, success
from verl_cleaner.dataset.success import BUCKETS, Statistic
from verl_cleaner.evaluation.runner import PLAIN, ROLLBACK, Evaluation, EvaluationError, run
from verl_cleaner.launch import RunFailed
from verl_cleaner.records.trajectories import Trajectory, read_folder
from verl_cleaner.report.tables import format_table


def count(sources: dict[str, str], trajectories: Iterable[Trajectory], attempts: int, *, place: str) -> list[Statistic]:
    """Of the rows with at least `attempts` samples, of which those with the lowest numbers count; in the rows' order.

    place: where the trajectories are from, for the message.

    Raises:
        ValueError: a trajectory is of another data set, or its reward does not say whether it was right.
    """
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for trajectory in trajectories:
        uid, source = str(trajectory.data_uid), str(trajectory.data_source)
        if sources.get(uid) != source:
            there = f"of {sources[uid]}" if uid in sources else "not there"
            raise ValueError(
                f"{place} holds trajectories of another data set: uid {uid!r} is of {source}, "
                f"in the data set it is {there}"
            )
        if trajectory.acc is None or trajectory.score is None:
            raise ValueError(
                f"{place}: the reward of uid {uid!r} has no acc; "
                "score with REWARD_PATH=pkg://verl_cleaner.reward.router"
            )
        found[uid][trajectory.rollout] = trajectory.acc, trajectory.score
    result = []
    for uid, source in sources.items():
        first = [outcome for _, outcome in sorted(found[uid].items())[:attempts]] if uid in found else []
        if len(first) == attempts:
            result.append(Statistic.of(uid, source, [acc for acc, _ in first], [score for _, score in first]))
    return result


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    status = 0
    if options.model is not None:
        status = _roll_out(options)
    try:
        _write(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


def _roll_out(options: argparse.Namespace) -> int:
    """Exit status."""
    try:
        run(evaluation(options))
    except KeyboardInterrupt:
        print("\n[cleaner] stopped; the same command goes on with what is left", file=sys.stderr)
        return 130
    except (RunFailed, EvaluationError, ValueError) as error:
        print(f"[cleaner] error: {error}", file=sys.stderr)
        return 1
    return 0


def evaluation(options: argparse.Namespace) -> Evaluation:
    """The rollout: one arm over the data set."""
    return Evaluation(
        model=options.model,
        suites=(str(options.dataset),),
        out=options.evaluation,
        samples=options.attempts,
        rollback=(ROLLBACK if options.rollback else PLAIN,),
        chunk=options.chunk,
        limit=options.limit,
        tools=not options.no_tools,
        config=options.config_name,
        sources=options.sources,
        overrides=tuple(options.overrides),
        # avg_score is the score of training: the share of all tests.
        accuracy_only=False,
    )


def _write(options: argparse.Namespace) -> None:
    folder = options.evaluation / (ROLLBACK if options.rollback else PLAIN) / "trajectories"
    sources = {uid: identity.source for uid, identity in reading.identities(options.dataset).items()}
    trajectories = tqdm(read_folder(folder, texts=False), "trajectories", mininterval=2)
    found = count(sources, trajectories, options.attempts, place=str(folder))
    success.write(options.out, found)
    buckets = [sum(statistic.bucket == bucket for statistic in found) for bucket in range(BUCKETS + 1)]
    print(format_table([["success rate", *(f"{b}/8" for b in range(BUCKETS + 1))], ["rows", *map(str, buckets)]]))
    missing = len(sources) - len(found)
    print(
        f"{options.out}: {len(found):,} rows, {sum(s.keep for s in found):,} of them neither always nor never solved"
        + (f"; {missing:,} rows do not have {options.attempts} attempts yet and are left out" if missing else "")
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m verl_cleaner.evaluation.rollout_stats",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", type=Path, required=True, help="a file of any schema")
    parser.add_argument("--evaluation", type=Path, required=True, help="folder of the evaluation over it")
    parser.add_argument("--out", type=Path, required=True, help="the statistics, JSON Lines")
    parser.add_argument("--attempts", type=int, default=BUCKETS, choices=(1, 2, 4, 8), help="a row's (%(default)s)")
    parser.add_argument("--rollback", action="store_true", help="with rollback, K = 3")
    parser.add_argument("--model", help="Hugging Face folder or hub name; without one nothing is rolled out")
    parser.add_argument("--no_tools", action="store_true", help="reasoning only")
    parser.add_argument("--sources", help="YAML laid over our table of sources")
    parser.add_argument("--chunk", type=int, default=256, help="rows that are kept at a time (%(default)s)")
    parser.add_argument("--limit", type=int, help="only the first rows")
    parser.add_argument("--config-name", default="cleaner", help="of verl_cleaner.main_ppo (%(default)s)")
    options, overrides = parser.parse_known_args(argv)
    for text in overrides:
        if "=" not in text or text.startswith("--"):
            parser.error(f"unknown argument {text!r}; expected an option above or a Hydra override key=value")
    options.overrides = overrides
    return options


if __name__ == "__main__":
    sys.exit(main())
