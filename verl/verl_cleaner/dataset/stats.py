"""Success statistics of a data set from the trajectories of an evaluation over it.

    python -m verl_cleaner.dataset.stats --dataset FILE --trajectories DIR --out FILE [--attempts 8]

DIR is the trajectories' folder of an evaluation (`verl_cleaner.evaluation`), finished or not. Rows that do not have all
their attempts are left out and counted. `recipe/cleaner/rollout_stats.sh` runs the evaluation and then this.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from verl_cleaner.dataset import reading, statistics
from verl_cleaner.dataset.statistics import BUCKETS, Statistic
from verl_cleaner.dataset.tables import format_table
from verl_cleaner.evaluation.trajectories import Trajectory, read


def count(sources: dict[str, str], trajectories: Iterable[Trajectory], attempts: int, *, place: str) -> list[Statistic]:
    """Of the rows with at least `attempts` samples, of which those with the lowest numbers count; in the rows' order.

    place: where the trajectories are from, for the message.

    Raises:
        ValueError: a trajectory is of another data set, or its reward does not say whether it was right.
    """
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for trajectory in trajectories:
        uid, source = trajectory.uid, trajectory.data_source
        if sources.get(uid) != source:
            there = f"of {sources[uid]}" if uid in sources else "not there"
            raise ValueError(
                f"{place} holds trajectories of another data set: uid {uid!r} is of {source}, "
                f"in the data set it is {there}"
            )
        if trajectory.acc is None:
            raise ValueError(
                f"{place}: the reward of uid {uid!r} has no acc; "
                "score with REWARD_PATH=pkg://verl_cleaner.reward.router"
            )
        found[uid][trajectory.sample] = trajectory.acc, trajectory.score
    result = []
    for uid, source in sources.items():
        first = [outcome for _, outcome in sorted(found[uid].items())[:attempts]] if uid in found else []
        if len(first) == attempts:
            result.append(Statistic.of(uid, source, [acc for acc, _ in first], [score for _, score in first]))
    return result


def main() -> int:
    options = _parse()
    try:
        sources = reading.identities(options.dataset)
        trajectories = tqdm(
            read(options.trajectories), "trajectories", total=len(sources) * options.attempts, mininterval=2
        )
        found = count(sources, trajectories, options.attempts, place=str(options.trajectories))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    statistics.write(options.out, found)
    buckets = [sum(statistic.bucket == bucket for statistic in found) for bucket in range(BUCKETS + 1)]
    print(format_table([["success rate", *(f"{b}/8" for b in range(BUCKETS + 1))], ["rows", *map(str, buckets)]]))
    missing = len(sources) - len(found)
    print(
        f"{options.out}: {len(found):,} rows, {sum(s.keep for s in found):,} of them neither always nor never solved"
        + (f"; {missing:,} rows do not have {options.attempts} attempts yet and are left out" if missing else "")
    )
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="what the evaluation ran over")
    parser.add_argument("--trajectories", type=Path, required=True, help="folder of the evaluation's trajectories")
    parser.add_argument("--out", type=Path, required=True, help="the statistics, JSON Lines")
    parser.add_argument("--attempts", type=int, default=BUCKETS, choices=(1, 2, 4, 8), help="a row's")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
