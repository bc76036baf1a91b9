"""The facts of a run on top of the page: date, model, seed, steps, commit, hardware, versions, command."""

from typing import Any

from verl_cleaner.report.run import Run

_SEEDS = ("data.seed", "trainer.seed", "actor_rollout_ref.rollout.seed")
_MODEL = "actor_rollout_ref.model.path"


def about(run: Run) -> dict[str, str]:
    """Label -> text, in the order of the page. Facts that are not known are left out."""
    versions = ", ".join(f"{name} {number}" for name, number in run.versions.items())
    facts: dict[str, Any] = {
        "started": run.info.get("started"),
        "model": run.config.get(_MODEL),
        "seed": seed(run),
        "steps": _steps(run),
        "commit": run.info.get("commit"),
        "hardware": run.info.get("hardware"),
        "versions": versions,
        "command": run.info.get("command"),
    }
    return {label: str(value) for label, value in facts.items() if value not in (None, "", "null")}


def seed(run: Run) -> str | None:
    return next((run.config[key] for key in _SEEDS if run.config.get(key, "null") != "null"), None)


def _steps(run: Run) -> str:
    if not run.steps:
        return ""
    seconds = sum(metrics.get("timing_s/step", 0.0) for metrics in run.steps.values())
    time = f", {seconds / 3600:.1f} h" if seconds >= 3600 else f", {seconds / 60:.0f} min" if seconds >= 60 else ""
    return f"{max(run.steps):,}{time}"
