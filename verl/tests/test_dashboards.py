"""The same panels in the report, wandb, TensorBoard and Grafana, and every metric is one that a run logs."""

import json
import re
import sys
from pathlib import Path

import pytest
from report_data import write_run

from verl_cleaner.report import dashboards
from verl_cleaner.report.charts import chart_data
from verl_cleaner.report.folder import find_runs
from verl_cleaner.report.panels import JUDGE, PANELS, Form, Line, Parts
from verl_cleaner.report.run import read_run
from verl_cleaner.saar.metrics import rollback_metrics
from verl_cleaner.training.overwritten_loss import finish_metrics
from verl_cleaner.training.repair_tables import log_layout

TITLES = [(panel.section, panel.title) for panel in PANELS]


def test_the_table_is_whole():
    assert len(set(TITLES)) == len(PANELS)
    for panel in PANELS:
        assert (panel.form == Form.LINES) == bool(panel.lines) != bool(panel.parts), panel.title
        assert bool(panel.parts) == bool(panel.queries), panel.title
    names = [line.prometheus for panel in PANELS for line in panel.lines]
    assert len(set(names)) == len(names)


def test_patterns_match_whole_names_only():
    line = Line("val-aux/tool_calls/first_attempt_success_rate")
    assert re.fullmatch(line.pattern, line.metric)
    parts = Parts("timing_s/", only=("gen",))
    assert parts.read({"timing_s/gen": 1.0, "timing_s/step": 2.0, "timing_s/gen/x": 3.0}) == {"gen": 1.0}
    assert not re.fullmatch(parts.pattern, "timing_s/generate")


def test_what_only_overwritten_tokens_have_is_logged():
    """The rest: test_leaf_training.py and test_end_to_end.py, in whole runs."""
    record = {
        "enabled": True, "eligible": True, "attempts": [], "recovered": 1, "failed": 0, "sampled_tokens": 9,
        "retries": [{"turn": 1, "gap": -0.5, "span": (2, 4), "discarded": 3, "strategy": "full_turn",
                     "similarity": 0.5, "result": "overwritten"}],
    }  # fmt: skip
    metrics = rollback_metrics([record]) | {"actor/overwritten_kl": 0.2, "actor/overwritten_tokens": 2.0}
    finish_metrics(metrics)
    lines = {panel.title: panel.lines for panel in PANELS}
    (gap,) = lines["Purification gap"]
    assert {gap.metric, gap.low, gap.high} <= set(metrics)
    assert [line.read(metrics) for line in lines["KL of the update"]] == [None, 0.1, None]


def test_the_report_draws_every_panel_that_has_data(tmp_path):
    (folder,) = find_runs(write_run(tmp_path / "run"))
    run = read_run(folder, name="run", limit=10)
    drawn = {(chart["section"], chart["title"]) for chart in chart_data([[run]])}
    logged = {name for metrics in run.steps.values() for name in metrics}
    assert drawn == {
        (panel.section, panel.title)
        for panel in PANELS
        if any(re.fullmatch(source.pattern, name) for source in panel.lines or [panel.parts] for name in logged)
    }


def test_tensorboard_keeps_the_layout_and_its_tags_are_those_that_are_logged(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from verl.utils.tracking import Tracking

    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    tracking = Tracking("cleaner", "test", ["tensorboard"])
    log_layout(tracking.logger)
    tracking.finish()
    events = EventAccumulator(str(tmp_path)).Reload()
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    found = {(category.title, chart.title): chart for category in layout.category for chart in category.chart}
    assert list(found) == TITLES
    failures = found["The policy or the repairs", "Tool failures a trajectory"]
    assert any(re.match(tag, "tool_calls/failures_per_trajectory") for tag in failures.multiline.tag)
    assert not any(re.match(tag, "tool_calls/failures_per_trajectory_x") for tag in failures.multiline.tag)
    (gap,) = found["Tools and repairs", "Purification gap"].margin.series
    assert (gap.value, gap.lower, gap.upper) == ("rollback/gap/mean", "rollback/gap/p05", "rollback/gap/p95")


def test_the_layout_can_be_added_to_an_old_run(tmp_path, capsys):
    assert dashboards.main(["tensorboard", str(tmp_path)]) == 0
    (events,) = tmp_path.iterdir()
    assert b"custom_scalars" in events.read_bytes()
    with pytest.raises(SystemExit):
        dashboards.main(["tensorboard", str(tmp_path / "absent")])
    assert "absent is no folder" in capsys.readouterr().err


def test_wandbs_workspace_has_the_panels_with_their_metrics():
    pytest.importorskip("wandb_workspaces", reason="the extra `wandb`")
    workspace = dashboards.wandb_workspace("me", "tools")
    assert (workspace.entity, workspace.project) == ("me", "tools")
    plots = {(section.name, plot.title): plot for section in workspace.sections for plot in section.panels}
    assert list(plots) == TITLES
    for panel in PANELS:
        plot = plots[panel.section, panel.title]
        lines = [name for line in panel.lines for name in (line.metric, line.low, line.high) if name]
        if panel.parts:
            assert plot.metric_regex == f"^{panel.parts.pattern}$"
        elif panel.title == "Held-out accuracy":
            assert re.match(plot.metric_regex, "val-core/math/aime/acc/mean@8")
        else:
            assert [str(name) for name in plot.y] == lines
    # What would be sent.
    sent = json.loads(workspace._to_model().model_dump_json(by_alias=True))
    assert "rollback/gap/p05" in json.dumps(sent)


def test_without_the_package_or_a_project_the_command_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    for argument, message in (("me/tools", 'pip install "verl-cleaner[wandb]"'), ("tools", "expected ENTITY/PROJECT")):
        with pytest.raises(SystemExit):
            dashboards.main(["wandb", argument])
        assert message in capsys.readouterr().err


def test_grafanas_dashboard_is_the_table(capsys):
    """Made anew by: python -m verl_cleaner.report.dashboards grafana > docs/grafana.json"""
    assert dashboards.main(["grafana"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made == json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
    sections, found = "", []
    for panel in made["panels"]:
        if panel["type"] == "row":
            sections = panel["title"]
        else:
            found.append((sections, panel["title"].partition(", ")[0]))
            assert panel["targets"]
    assert found == [(panel.section, panel.title.partition(", ")[0]) for panel in (*PANELS, *JUDGE)]
