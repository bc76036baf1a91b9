"""Panels where training is watched: `python -m verl_cleaner.report.dashboards {grafana,tensorboard,wandb}`.

grafana                  prints the dashboard; docs/grafana.json is its output
tensorboard FOLDER       adds a layout to the event files of a run: see the tab "Custom Scalars"
wandb ENTITY/PROJECT     saves a workspace in a project (needs the extra `wandb` and a login)

CLEANER's trainer writes the layout of TensorBoard by itself. All three are made from the table in `report.panels`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_cleaner.report.panels import JUDGE, PANELS, Form, Panel, Query

NAME = "CLEANER"
_UNITS = {"%": "percentunit", "s": "s"}
"""Grafana's names of the units."""
_ROW, _HEIGHT, _COLUMNS = 24, 8, 3
"""Grafana's grid: units in a row, height of a panel in units, panels in a row."""


def _sections(panels: Sequence[Panel]) -> dict[str, list[Panel]]:
    found: dict[str, list[Panel]] = {}
    for panel in panels:
        found.setdefault(panel.section, []).append(panel)
    return found


# ---- TensorBoard -----------------------------------------------------------------------------------------------------


def tensorboard_layout() -> dict[str, dict[str, list[Any]]]:
    """Section -> title -> chart, as `SummaryWriter.add_custom_scalars` takes it. Tags are regular expressions.

    A line with a band becomes a margin chart. TensorBoard has no stacks; their parts become lines.
    """
    return {section: {p.title: _chart(p) for p in panels} for section, panels in _sections(PANELS).items()}


def _chart(panel: Panel) -> list[Any]:
    if panel.parts:
        return ["Multiline", [f"^{panel.parts.pattern}$"]]
    (first, *_) = panel.lines
    if first.low:
        return ["Margin", [first.metric, first.low, first.high]]
    return ["Multiline", [f"^{line.pattern}$" for line in panel.lines]]


def _write_tensorboard(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        writer.add_custom_scalars(tensorboard_layout())


# ---- wandb -----------------------------------------------------------------------------------------------------------


def wandb_workspace(entity: str, project: str) -> Any:
    """A `wandb_workspaces.workspaces.Workspace`, not saved yet; `save()` sends it.

    Raises:
        ValueError: the package wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise ValueError(f'{error}; install it with: pip install "verl-cleaner[wandb]"') from None

    def plot(panel: Panel) -> Any:
        shares = panel.unit == "%"
        chosen: dict[str, Any]
        if panel.parts:
            chosen = {"metric_regex": f"^{panel.parts.pattern}$", "plot_type": "stacked-area"}
        elif any(line.value for line in panel.lines):
            chosen = {"metric_regex": "|".join(f"^{line.pattern}$" for line in panel.lines)}
        else:
            chosen = {"y": [name for line in panel.lines for name in (line.metric, line.low, line.high) if name]}
        return reports.LinePlot(
            title=panel.title,
            x="Step",
            range_y=(0.0, 1.0) if shares else (None, None),
            title_y="share" if shares else panel.unit or None,
            **chosen,
        )

    sections = [
        workspaces.Section(name=section, panels=[plot(panel) for panel in panels], is_open=True)
        for section, panels in _sections(PANELS).items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name=NAME, sections=sections)


# ---- Grafana ---------------------------------------------------------------------------------------------------------


def grafana() -> dict[str, Any]:
    """A dashboard of the training loop and the judge, over Prometheus."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}
    panels: list[dict[str, Any]] = []
    top = 0
    for section, members in _sections((*PANELS, *JUDGE)).items():
        panels.append({"type": "row", "title": section, "gridPos": _place(0, top, _ROW, 1), "collapsed": False,
                       "panels": []})  # fmt: skip
        top += 1
        width = _ROW // _COLUMNS
        for number, panel in enumerate(members):
            at = _place(width * (number % _COLUMNS), top + _HEIGHT * (number // _COLUMNS), width, _HEIGHT)
            panels.append(_grafana_panel(panel, at))
        top += _HEIGHT * -(-len(members) // _COLUMNS)
    return {
        "title": "CLEANER: training loop and judge",
        "uid": "cleaner",
        "schemaVersion": 39,
        "version": 2,
        "tags": ["cleaner", "verl"],
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source]},
        "panels": [panel | {"id": number} for number, panel in enumerate(panels, 1)],
    }


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"h": h, "w": w, "x": x, "y": y}


def _grafana_panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    stacked = panel.form != Form.LINES
    lines = [Query(line.prometheus, line.label or panel.title.lower()) for line in panel.lines]
    queries = panel.queries or lines
    custom = {
        "fillOpacity": 60 if stacked else 8,
        "lineWidth": 1 if stacked else 2,
        "stacking": {"mode": "normal" if stacked else "none"},
    }
    heatmap = any("_bucket[$__rate_interval]" in query.expression for query in queries)
    defaults: dict[str, Any] = {"unit": _UNITS.get(panel.unit, "ops" if stacked else "short")}
    return {
        "type": "heatmap" if heatmap else "timeseries",
        "title": panel.title + (f", {panel.unit}" if panel.unit not in ("", *_UNITS) else ""),
        "description": panel.note,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": place,
        "targets": [
            {"expr": query.expression, "legendFormat": query.legend, "refId": chr(ord("A") + number)}
            | ({"format": "heatmap"} if heatmap else {})
            for number, query in enumerate(queries)
        ],
        "fieldConfig": {"defaults": defaults | ({} if heatmap else {"custom": custom}), "overrides": []},
        "options": {"calculate": False} if heatmap else {},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m verl_cleaner.report.dashboards",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("grafana")
    kinds.add_parser("tensorboard").add_argument("folder", type=Path, metavar="FOLDER", help="of the event files")
    kinds.add_parser("wandb").add_argument("project", metavar="ENTITY/PROJECT")
    options = parser.parse_args(argv)
    if options.kind == "grafana":
        print(json.dumps(grafana(), indent=1))
    elif options.kind == "tensorboard":
        if not options.folder.is_dir():
            parser.error(f"{options.folder} is no folder; expected the folder of a run's event files (TENSORBOARD_DIR)")
        _write_tensorboard(options.folder)
    else:
        entity, slash, project = options.project.partition("/")
        if not (entity and slash and project):
            parser.error(f"expected ENTITY/PROJECT, got {options.project}")
        try:
            wandb_workspace(entity, project).save()
        except ValueError as error:
            parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
