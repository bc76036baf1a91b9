"""The trajectories of files of chat messages (`chat`).

Beside the messages, a row may have a reward, an accuracy, the truth, a step and the prompt's id, under the keys in
`NUMBERS`, `TRUTHS`, `STEPS` and `IDS`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from verl_cleaner.report import chat, chat_rows, sampling
from verl_cleaner.report.dumps import Warnings, number
from verl_cleaner.report.folder import DumpFolder
from verl_cleaner.report.trajectory import Trajectory

NUMBERS = {"score": ("reward", "score"), "acc": ("acc", "accuracy", "correct", "is_correct")}
TRUTHS = ("answer", "ground_truth", "gts", "expected_answer", "label")
IDS = ("uid", "prompt_id", "example_id", "task_id", "problem_id", "id")
STEPS = ("step", "global_step")
_SHOWN = 5
"""How many broken rows of a file are named."""

Rows = list[tuple[str, Any]]
"""(where, row): where is "line 3" or "item 3"."""


def read_groups(folder: DumpFolder, step: int, warnings: Warnings) -> dict[str, Rows]:
    """The rows of a file by prompt. The keys sort in the order in which prompts are sampled.

    Raises:
        ValueError: the file holds no row that can be read; names line and key.
    """
    groups: dict[str, Rows] = defaultdict(list)
    problems, good = [], 0
    for where, row in chat_rows.rows(folder.steps[step]):
        try:
            if isinstance(row, ValueError):
                raise row
            chat.read(row)
            _numbers(row)
        except ValueError as error:
            problems.append(f"{folder.steps[step].name}: {where}: {error}")
            continue
        good += 1
        groups[sampling.order(folder.split, step, chat.question(row))].append((where, row))
    for text in problems[:_SHOWN]:
        warnings.add(text)
    if len(problems) > _SHOWN:
        warnings.add(f"{folder.steps[step].name}: {len(problems) - _SHOWN} more rows left out")
    if problems and not good:
        raise ValueError("; ".join(problems[:_SHOWN]))
    return groups


def trajectories(folder: DumpFolder, step: int, groups: Mapping[str, Rows]) -> Iterator[Trajectory]:
    """groups: of `read_groups`, or some of them."""
    counts: Counter[tuple[int, str]] = Counter()
    for order, rows in groups.items():
        for _, row in rows:
            prompt, blocks, kinds = chat.read(row)
            fields = row if isinstance(row, dict) else {}
            numbers = _numbers(row)
            at = next((fields[name] for name in STEPS if _is_whole(fields.get(name))), step)
            uid = str(next((fields[name] for name in IDS if isinstance(fields.get(name), (str, int))), order[:8]))
            rollout = counts[at, uid]
            counts[at, uid] += 1
            truth = next((fields[name] for name in TRUTHS if fields.get(name) is not None), "")
            yield Trajectory(
                split=folder.split,
                step=at,
                uid=uid,
                rollout=rollout,
                prompt=prompt,
                blocks=blocks,
                response="\n".join(block.text for block in blocks),
                score=numbers["score"] if numbers["score"] is not None else numbers["acc"],
                acc=numbers["acc"],
                ground_truth=truth if isinstance(truth, str) else json.dumps(truth, ensure_ascii=False),
                kinds=kinds,
                attempts=[],
                retries=[],
                tokens=None,
                exact=True,
            )


def _numbers(row: Any) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for kind, names in NUMBERS.items():
        name = next((name for name in names if isinstance(row, dict) and row.get(name) is not None), None)
        if name is None:
            found[kind] = None
            continue
        value = row[name]
        if isinstance(value, (dict, list, str)):
            raise chat.BrokenRow(f"{name}: expected a number or true or false, got {json.dumps(value)[:60]}")
        found[kind] = number(value)
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
