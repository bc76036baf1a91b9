"""Data of a cold start with tools: `python -m cleaner_lab.sft.traces --out DIR [--traces N] [--seed S]`.

DIR/sft_train.parquet  conversations for VeRL's multi-turn SFT: columns messages, tools
DIR/sft_val.parquet    the same, held out
DIR/train.parquet      RL tasks
DIR/val.parquet        held-out tasks, among them a family that occurs nowhere else

Tasks and traces are those of the nano policy (`cleaner_lab.nano.traces`): code that was really run, with mistakes,
their real errors and corrections. The four files share no question.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cleaner_lab.nano.tasks import Task, make_tasks, to_row
from cleaner_lab.nano.traces import make_trace
from verl_cleaner.dataset.lengths import tool_schemas

SFT_VAL = 256


def write(out: Path, *, traces: int, train: int, val: int, seed: int) -> None:
    """Sizes in rows."""
    held_out = make_tasks("val", val, seed=seed)
    questions = frozenset(task.question for task in held_out)
    rl = make_tasks("train", train, seed=seed, exclude=questions)
    questions |= {task.question for task in rl}
    demonstrations = make_tasks("cold_start", traces + SFT_VAL, seed=seed, exclude=questions)
    out.mkdir(parents=True, exist_ok=True)
    conversations = list(_conversations(demonstrations, seed))
    _save(out / "sft_val.parquet", conversations[:SFT_VAL])
    _save(out / "sft_train.parquet", conversations[SFT_VAL:])
    for split, tasks in (("train", rl), ("val", held_out)):
        _save(out / f"{split}.parquet", [to_row(task, split=split, index=i) for i, task in enumerate(tasks)])


def _conversations(tasks: Sequence[Task], seed: int) -> Iterator[dict[str, Any]]:
    tools = tool_schemas()
    rng = random.Random(seed)
    for task in tasks:
        yield {"messages": make_trace(task, rng).messages, "tools": tools}


def _save(path: Path, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    pd.DataFrame(rows).to_parquet(path)
    print(f"{path}: {len(rows)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--traces", type=int, default=16000, help="conversations to fine-tune on (default: %(default)s)"
    )
    parser.add_argument("--train", type=int, default=8192, help="RL tasks (default: %(default)s)")
    parser.add_argument("--val", type=int, default=512, help="held-out tasks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.out, traces=options.traces, train=options.train, val=options.val, seed=options.seed)


if __name__ == "__main__":
    main()
