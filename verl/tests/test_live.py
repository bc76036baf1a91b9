"""A step's repairs where they are watched: wandb, tensorboard, Prometheus, and the dashboard of all metrics."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
import wandb
from loop_harness import ScriptedServer, call, make_config, rollback, run_loop
from prometheus_client import generate_latest
from verl.utils.tracking import Tracking

from code_judge.broker import Status
from code_judge.metrics import render
from verl_cleaner.config import rollback_config
from verl_cleaner.records import rollbacks as rollback_dump
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop
from verl_cleaner.saar.metrics import rollback_metrics
from verl_cleaner.training.prometheus import LoopMetrics, check_address, outcome_label
from verl_cleaner.training.repair_tables import log_repairs

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
EVIL = "NameError <script>x</script> é # **bold**"


@pytest.fixture
async def step():
    """(rows, records) of a trajectory whose first call fails, is repaired and works."""
    config = make_config(*rollback())
    script = [f"A. {call(EVIL)}", f"A. {call('ok <script>x</script> é # **bold**')}", "Done."]
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(script), config)
    record = output.extra_fields[RECORD_FIELD]
    settings = rollback_config(config.actor_rollout_ref.rollout.multi_turn)
    return rollback_dump.rows([("u_0_0", record)], step=3, config=settings), [record]


def test_wandb_has_the_table_and_the_charts(step, tmp_path, monkeypatch):
    """The real client, offline, set up by VeRL; what it would send is in its folder."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    tracking = Tracking("cleaner", "test", ["wandb"], config={"trainer": {}})
    log_repairs(tracking.logger, *step, step=3)
    tracking.log({"critic/score/acc": 0.5}, step=3)
    tracking.finish()
    # Its service has written everything only when it has ended.
    wandb.teardown()
    tables = {}
    for file in tmp_path.rglob("*.table.json"):
        table = json.loads(file.read_text())
        tables[tuple(table["columns"])] = table["data"]
    (example,) = next(data for columns, data in tables.items() if "failed_call" in columns)
    assert EVIL in example
    assert 3 in example
    assert tables["kind", "calls"] == [["NameError", 1]]
    assert tables["similarity",] == [[step[0][0]["similarity"]]]
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*.wandb"))
    for key in (b"repairs/examples", b"repairs/failure_kinds", b"repairs/similarity", b"critic/score/acc"):
        assert key in written


def test_tensorboard_has_the_repairs_as_text_that_is_no_markup(step, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    tracking = Tracking("cleaner", "test", ["tensorboard"])
    log_repairs(tracking.logger, *step, step=3)
    tracking.finish()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Histograms("repairs/similarity")[0].step == 3
    text = events.Tensors("repairs/examples/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"- {EVIL}" in text
    assert all(line.startswith("    ") for line in text.splitlines())


def test_a_step_without_tools_logs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    tracking = Tracking("cleaner", "test", ["tensorboard"])
    log_repairs(tracking.logger, [], [], step=1)
    log_repairs({"console": object()}, [], [], step=1)
    tracking.finish()


def metrics_of(records):
    extra = {"critic/score/acc": 0.5, "timing_s/gen": 1.5, "infrastructure/lost_groups": 2, "rollback/gap/mean": -1.0}
    return rollback_metrics(records) | extra | {"response_length/mean": 30.0}


def test_prometheus_serves_the_loops_metrics(step):
    metrics = LoopMetrics()
    metrics.validated({"val-core/a/acc/mean@1": 0.25, "val-core/b/acc/mean@1": 0.75})
    for number in (1, 2):
        phase = {"timing_s/testing": 9.0} if number == 1 else {}
        metrics.stepped(number, metrics_of(step[1]) | phase, step[1])
    port = metrics.serve("127.0.0.1:0")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read().decode()
    for line in (
        "cleaner_step 2.0",
        "cleaner_held_out_accuracy 0.5",
        "cleaner_accuracy 0.5",
        'cleaner_phase_seconds{phase="gen"} 1.5',
        'cleaner_tool_calls_total{outcome="exception"} 2.0',
        'cleaner_tool_calls_total{outcome="ok"} 2.0',
        'cleaner_rollbacks_total{result="recovered"} 2.0',
        'cleaner_retries_total{result="overwritten"} 2.0',
        "cleaner_lost_groups_total 4.0",
        "cleaner_similarity_count 2.0",
    ):
        assert line in text.splitlines()
    assert "testing" not in text


def test_an_address_in_use_is_named():
    port = LoopMetrics().serve("127.0.0.1:0")
    with pytest.raises(ValueError, match=f"trainer.metrics_address=127.0.0.1:{port} cannot be bound.*name another"):
        LoopMetrics().serve(f"127.0.0.1:{port}")


def test_outcomes_are_few():
    assert [outcome_label(kind) for kind in (None, "timeout", "MyOwnError")] == ["ok", "timeout", "exception"]


@pytest.mark.parametrize(
    ("address", "good"), [(None, True), ("0.0.0.0:9108", True), ("9108", False), ("h:x", False), (":1", False)]
)
def test_addresses(address, good):
    problem = check_address(address)
    assert (problem is None) == good
    assert good or f"got {address}" in problem


def test_the_dashboard_asks_for_metrics_that_exist(step):
    metrics = LoopMetrics()
    metrics.stepped(1, metrics_of(step[1]), step[1])
    exposed = generate_latest(metrics.registry).decode() + render(Status(queued=0, workers=[]), (0, 0))
    names = {re.split(r"[{ ]", line)[0] for line in exposed.splitlines() if not line.startswith("#")}
    # Of the judge's counters only those with a sample have a line.
    names |= set(re.findall(r"# TYPE (\S+) counter", exposed))
    asked = {name for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
             for name in re.findall(r"\b(?:cleaner|code_judge)_\w+", target["expr"])}  # fmt: skip
    assert asked - names == set()
    assert {"cleaner_held_out_accuracy", "code_judge_slots_busy"} <= asked


def test_the_dashboards_panels_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
