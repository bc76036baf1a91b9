"""The policy alone against rollback at test time, as the reports of `verl_cleaner.evaluation` have it."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

FILE = "report.json"
PLAIN, ROLLBACK = "plain", "rollback"
"""The arms of an evaluation, as `evaluation.runner` names them."""


def read(folder: Path) -> list[dict[str, Any]]:
    """One row a suite: mean@n of both arms, their paired difference, and failures and tokens per trajectory.

    Raises:
        ValueError: the folder holds no such report.
    """
    path = folder / FILE
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        model = report["settings"].get("model", folder.name)
        return [_row(str(model), name, suite) for name, suite in report["suites"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no report of an evaluation ({type(error).__name__}: {error}); make it with "
            f"python -m verl_cleaner.evaluation report {folder}"
        ) from None


def _row(model: str, name: str, suite: dict[str, Any]) -> dict[str, Any]:
    arms = suite["arms"]
    either = next(iter(arms.values()))
    comparison = suite.get("comparison") or {}
    return {
        "model": PurePath(model).name,
        "suite": PurePath(name).stem,
        "problems": either["problems"],
        "samples": either["samples"],
        "gain": comparison.get("gain"),
        "arms": {arm: _arm(arms[arm]) if arm in arms else None for arm in (PLAIN, ROLLBACK)},
    }


def _arm(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: summary.get(name) for name in ("mean", "failures_left", "tool_failures", "generated_tokens")}


def find(folders: Sequence[Path]) -> list[Path]:
    """The folders of evaluations that lie in the folders of runs."""
    return [path.parent for folder in folders for path in sorted(folder.glob(f"*/{FILE}")) if _is_evaluation(path)]


def _is_evaluation(path: Path) -> bool:
    return any((path.parent / arm / "trajectories").is_dir() for arm in (PLAIN, ROLLBACK))
