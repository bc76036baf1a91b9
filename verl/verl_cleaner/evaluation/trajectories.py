"""Trajectories of a validation, written batch by batch as they are complete, and read again one after the other."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled answer.

    problem: the benchmark's id; uid: the data row's. sample: number among the problem's samples.
    input, output: prompt and response, tool responses included. score … reason: see `reward.result.Reward`; null where
    the reward function does not say so.
    response_tokens: of the trajectory as it ended, tool responses included. generated_tokens: sampled by the model,
    discarded retries included; discarded_tokens of them are not in the trajectory. tool_calls, tool_failures: calls
    that ran, and those that failed; failures_left: failed calls that the trajectory still shows. rollbacks: failed
    turns that were retried; recovered: those that a retry repaired.
    """

    suite: str
    problem: str
    uid: str
    data_source: str
    sample: int
    input: str
    output: str
    score: float
    acc: float | None
    verified: float | None
    pred: str | None
    reason: str | None
    turns: int
    response_tokens: int
    generated_tokens: int
    discarded_tokens: int
    tool_calls: int
    tool_failures: int
    failures_left: int
    rollbacks: int
    recovered: int

    @property
    def key(self) -> tuple[str, str]:
        return self.suite, self.problem


_NAMES = {field.name for field in fields(Trajectory)}


def write(folder: Path, trajectories: Sequence[Trajectory]) -> Path:
    """As the folder's next file; complete or not there at all."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.stem) for path in folder.glob("*.jsonl")]
    path = folder / f"{max(numbers, default=-1) + 1}.jsonl"
    building = path.with_suffix(".part")
    with building.open("w", encoding="utf-8", errors="replace") as file:
        for trajectory in trajectories:
            file.write(json.dumps(asdict(trajectory), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    building.rename(path)
    return path


def read(folder: Path) -> Iterator[Trajectory]:
    """Every trajectory of a folder; nothing where it is not there yet.

    Raises:
        ValueError: names file and line that is no trajectory.
    """
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem)):
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield Trajectory(**{name: value for name, value in json.loads(line).items() if name in _NAMES})
                except (ValueError, TypeError, AttributeError) as error:
                    raise ValueError(f"{path}, line {number} is no trajectory of an evaluation: {error}") from None


def of_sample(fields_: dict[str, Any], *, sample: int, input: str, output: str) -> Trajectory:
    """From what VeRL's agent loop and reward function hand over for one sample."""
    extra, info = fields_["extra_info"] or {}, fields_["extra_fields"]
    reward, record = info.get("reward_extra_info") or {}, info.get("rollback_record")
    tokens = len(fields_["responses"])
    uid = str(extra.get("uid", extra.get("index", "")))
    values: dict[str, Any] = {
        "suite": str(extra.get("suite", fields_["data_source"])),
        "problem": str(extra.get("problem", uid)),
        "uid": uid,
        "data_source": str(fields_["data_source"]),
        "sample": sample,
        "input": input,
        "output": output,
        "score": float(fields_["rm_scores"].sum()),
        "turns": int(fields_["num_turns"]),
        "response_tokens": tokens,
    }
    values |= {name: reward.get(name) for name in ("acc", "verified", "pred", "reason")}
    return Trajectory(**values | _tool_statistics(record, tokens))


def _tool_statistics(record: dict[str, Any] | None, tokens: int) -> dict[str, int]:
    """record: a `saar.record.TrajectoryRecord`; None where the loop has no tools and writes none."""
    if record is None:
        names = ("discarded_tokens", "tool_calls", "tool_failures", "failures_left", "rollbacks", "recovered")
        return {"generated_tokens": tokens} | dict.fromkeys(names, 0)
    last = {attempt["turn"]: attempt for attempt in record["attempts"]}
    return {
        "generated_tokens": record["sampled_tokens"],
        "discarded_tokens": sum(retry["discarded"] for retry in record["retries"]),
        "tool_calls": sum(len(attempt["kinds"]) for attempt in record["attempts"]),
        "tool_failures": sum(kind is not None for attempt in record["attempts"] for kind in attempt["kinds"]),
        "failures_left": sum(kind is not None for attempt in last.values() for kind in attempt["kinds"]),
        "rollbacks": record["recovered"] + record["failed"],
        "recovered": record["recovered"],
    }
