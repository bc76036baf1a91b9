"""A trajectory: a row of VeRL's dump, joined with the rows of ours where there are any."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from verl_cleaner.records import trajectories as records
from verl_cleaner.report import conversation, dumps
from verl_cleaner.report.conversation import Block
from verl_cleaner.report.dumps import Warnings, number
from verl_cleaner.report.folder import DumpFolder, Split


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a response, one value each. `texts`, joined, are its text. None: not known."""

    texts: list[str]
    mask: list[int]
    overwritten: list[int]
    old_log_probs: list[float] | None
    rollout_log_probs: list[float] | None
    advantages: list[float] | None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """rollout: index in its group. kinds: of all failed calls, also of those that were repaired.
    retries: rows of `records.rollbacks`. exact: turns are known, not guessed from the text.
    """

    split: Split
    step: int
    uid: str
    rollout: int
    prompt: list[Block]
    blocks: list[Block]
    response: str
    score: float | None
    acc: float | None
    ground_truth: str
    kinds: list[str]
    attempts: list[dict[str, Any]]
    retries: list[dict[str, Any]]
    tokens: Tokens | None
    exact: bool

    @property
    def repaired(self) -> bool:
        """A failed turn was overwritten, and its last call works, as far as that is known."""
        last = {attempt["turn"]: attempt for attempt in self.attempts}
        turns = {retry["turn"] for retry in self.retries if retry["result"] == "overwritten"}
        return any(turn not in last or not any(last[turn]["kinds"]) for turn in turns)

    @property
    def turns(self) -> int:
        return max((block.turn or 0 for block in self.blocks), default=0)


def joined(
    folder: DumpFolder, step: int, groups: Mapping[str, list[dict[str, Any]]], warnings: Warnings
) -> Iterator[Trajectory]:
    """The trajectories of a step. groups: VeRL's rows by prompt."""
    if not groups:
        return
    rows_of_ours = dumps.trajectories(folder.path, step, warnings)
    ours = {(row.uid, row.rollout, row.output): row for row in rows_of_ours}
    retries: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in dumps.rollbacks(folder.path, step, warnings):
        retries[row["uid"], row["rollout"]].append(row)
    for order, rows in groups.items():
        for index, row in enumerate(rows):
            uid, rollout, output = _split_uid(row.get("uid"), order[:8], index)
            found = retries.get((uid, rollout), [])
            make = partial(trajectory, folder.split, step, row, uid=uid, rollout=rollout)
            try:
                yield make(ours.get((uid, rollout, output)), found)
            except (TypeError, ValueError, LookupError) as error:
                warnings.add(
                    f"{folder.path.name}/trajectories/{step}.parquet: rows left out that hold values of another type "
                    f"than documented, first {uid}_{rollout}_{output}: {error}"
                )
                yield make(None, found)


def _split_uid(value: Any, default: str, index: int) -> tuple[str, int, int]:
    """The parts of VeRL's key `{uid}_{rollout}_{output}`. Older dumps have no key; then a prompt is a group."""
    match = re.fullmatch(r"(.+)_(\d+)_(\d+)", value) if isinstance(value, str) else None
    return (match[1], int(match[2]), int(match[3])) if match else (default, index, 0)


def trajectory(
    split: Split,
    step: int,
    row: Mapping[str, Any],
    ours: records.Trajectory | None,
    retries: list[dict[str, Any]],
    *,
    uid: str,
    rollout: int,
) -> Trajectory:
    """row: of VeRL's dump. ours: the row of our own dump; None without one."""
    attempts = (ours.attempts if ours else None) or []
    kinds = [kind for attempt in attempts for kind in attempt["kinds"] if kind is not None]
    if not attempts:
        kinds = [kind for retry in retries for kind in retry["kinds"]]
    response = str(row["output"])
    tokens = _tokens(ours) if ours else None
    acc = ours.acc if ours else None
    blocks = conversation.of_tokens(tokens.texts, tokens.mask) if tokens else conversation.of_text(response)
    return Trajectory(
        split=split,
        step=step,
        uid=uid,
        rollout=rollout,
        prompt=conversation.of_prompt((ours.prompt if ours else None) or str(row.get("input", ""))),
        blocks=_numbered(blocks, retries, exact=tokens is not None),
        response=response,
        score=number(row.get("score")),
        acc=number(row.get("acc") if acc is None else acc),
        ground_truth="" if row.get("gts") is None else str(row["gts"]),
        kinds=kinds,
        attempts=attempts,
        retries=retries,
        tokens=tokens,
        exact=tokens is not None,
    )


def _numbered(blocks: list[Block], retries: list[dict[str, Any]], *, exact: bool) -> list[Block]:
    """The blocks with turns as SAAR counts them.

    With `rollback_mode=keep` or `void`, a retry follows its failed turn and has the same number. exact: turns come from
    the mask; there a voided turn has mask 0, so it was not counted as a turn.
    """
    follows = {"kept"} if exact else {"kept", "voided"}
    extra = Counter(retry["turn"] for retry in retries if retry["result"] in follows)
    if not extra:
        return blocks
    turns = [turn for turn in range(1, len(blocks) + 2) for _ in range(1 + extra[turn])]
    return [replace(block, turn=turns[block.turn - 1] if block.turn else block.turn) for block in blocks]


def _tokens(ours: records.Trajectory) -> Tokens | None:
    texts, mask = ours.tokens, ours.mask
    if not texts or mask is None or len(mask) != len(texts):
        return None
    overwritten = [0] * len(texts)
    for start, end in ours.spans or []:
        overwritten[start:end] = [1] * (end - start)
    scores = [getattr(ours, name) for name in ("old_log_probs", "rollout_log_probs", "advantages")]
    complete = (v if v and len(v) == len(texts) and None not in v else None for v in scores)
    old, rollout, advantages = complete
    return Tokens(texts, mask, overwritten, old, rollout, advantages)
