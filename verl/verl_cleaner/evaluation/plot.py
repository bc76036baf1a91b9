"""pass@k and maj@k over the generated tokens that k samples cost, with and without rollback; one panel a suite."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLORS = {"plain": "#8a8f98", "rollback": "#1668b8"}
_LINES = {"pass": "-", "maj": "--"}


def draw(report: Mapping[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    suites = report["suites"]
    figure, axes = plt.subplots(
        1, len(suites), figsize=(4.2 * len(suites), 3.4), squeeze=False, constrained_layout=True
    )
    for axis, (name, suite) in zip(axes[0], suites.items(), strict=True):
        for arm, summary in suite["arms"].items():
            _draw_arm(axis, arm, summary)
        axis.set_title(Path(name).name, fontsize=10)
        axis.set_xlabel("generated tokens a problem")
        axis.set_xscale("log")
        axis.set_ylabel("%")
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_arm(axis: Any, arm: str, summary: Mapping[str, Any]) -> None:
    tokens = max(1.0, summary["generated_tokens"])
    for kind, style in _LINES.items():
        points = [(int(k) * tokens, estimate) for k, estimate in summary[kind].items()]
        if not points:
            continue
        spent = [x for x, _ in points]
        low, value, high = ([100 * estimate[key] for _, estimate in points] for key in ("low", "value", "high"))
        axis.plot(spent, value, style, color=_COLORS[arm], marker="o", markersize=3, label=f"{kind}@k, {arm}")
        if kind == "pass":
            axis.fill_between(spent, low, high, color=_COLORS[arm], alpha=0.12, linewidth=0)
