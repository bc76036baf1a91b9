"""A grid as users start it, on CPU: a series of runs equals each run alone, an interrupted run goes on. A minute."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from cleaner_lab.experiments import results
from verl_cleaner.records.metrics import read_steps

pytestmark = pytest.mark.end_to_end(2)

REPOSITORY = Path(__file__).parents[1]
SMALL = [
    "data.train_batch_size=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=32",
    "data.val_max_samples=24",
    # The first update counts too.
    "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
    "trainer.test_freq=1",
    "trainer.save_freq=1",
]
MEASURED_IN_TIME = ("timing", "perf/", "latency", "seconds")


def start(out, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "CODE_JUDGE_URL"}
    grid = out.with_name("grid.yaml")
    shipped = yaml.safe_load((REPOSITORY / "recipe/cleaner/experiments/nano.yaml").read_text())
    names = {"first": "cleaner", "baseline": "baseline", "cleaner": "cleaner"}
    methods = {name: shipped["methods"][of] for name, of in names.items()}
    # In this order.
    grid.write_text(yaml.safe_dump(shipped | {"methods": methods}, sort_keys=False))
    options = ["--out", out, "--seeds", "1", "--steps", "2"]
    return subprocess.Popen(
        ["bash", "recipe/cleaner/experiments/run.sh", grid, *options, *arguments, *SMALL],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process):
    with process:
        text = process.stdout.read()
    return process.returncode, text


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Three runs in one group of processes, the second without rollback, the third, which is the first once more,
    interrupted after a step and gone on with: (folder, texts)"""
    out = tmp_path_factory.mktemp("series") / "out"
    first = start(out)
    begun = []
    for line in first.stdout:
        begun.append(line)
        if "cleaner/seed1" in line and "step   1" in line:
            break
    first.send_signal(signal.SIGINT)
    interrupted, rest = finish(first)
    status, text = finish(start(out))
    assert status == 0, text + "".join(log.read_text()[-3000:] for log in out.glob("group*.log"))
    return out, (interrupted, "".join(begun) + rest), text


def untimed(metrics):
    return {key: value for key, value in metrics.items() if not any(part in key for part in MEASURED_IN_TIME)}


def test_results_are_tidy(series):
    out, (_, begun), text = series
    assert "3 runs, 0 of them done already" in begun
    assert "results of 3 runs" in text
    table = pq.read_table(out / "results.parquet")
    frame = table.to_pandas()
    assert set(frame["method"]) == {"first", "baseline", "cleaner"}
    assert set(frame["seed"]) == {1}
    assert set(frame["step"]) == {0, 1, 2}
    assert not frame["value"].isna().any()
    last = frame[frame["step"] == 2].set_index(["method", "metric"])["value"]
    assert last["cleaner", "train/recovery_rate"] > 0
    assert ("baseline", "train/recovery_rate") not in last.index
    for metric in ("held_out/accuracy", "held_out_rollback/accuracy", "train/tokens_generated", "train/seconds"):
        assert ("baseline", metric) in last.index
    metadata = json.loads(table.schema.metadata[results.METADATA])
    assert metadata["policy_parameters"] > 100_000
    assert "rollback" in "".join(metadata["methods"]["cleaner"])
    assert "enable_tool_rollback" not in "".join(metadata["methods"]["baseline"])


def test_a_run_in_a_series_equals_the_run_alone_also_when_it_was_interrupted(series):
    """Nothing has run before the first."""
    out, (status, begun), text = series
    assert status != 0
    assert "the same command goes on with what is left" in begun
    assert "Traceback" not in begun
    assert "3 runs, 2 of them done already" in text
    assert "Resuming from" in (out / "group0.log").read_text()
    alone, within = (read_steps(out / method / "seed1/metrics.jsonl") for method in ("first", "cleaner"))
    assert alone.keys() == within.keys() == {0, 1, 2}
    logged = [json.loads(line)["step"] for line in (out / "cleaner/seed1/metrics.jsonl").read_text().splitlines()]
    assert logged.count(1) == 1
    for step in (0, 1, 2):
        assert untimed(within[step]).keys() <= untimed(alone[step]).keys()
        for key, value in untimed(within[step]).items():
            assert alone[step][key] == pytest.approx(value, rel=1e-3, abs=1e-4), (step, key)
    assert within[1]["actor/grad_norm"] != pytest.approx(within[2]["actor/grad_norm"], rel=1e-3)


def test_what_is_done_is_not_done_again_and_other_settings_are_no_such_run(series):
    out = series[0]
    status, text = finish(start(out, "--methods", "cleaner"))
    assert status == 0
    assert "1 runs, 1 of them done already" in text
    status, text = finish(start(out, "--methods", "cleaner", "actor_rollout_ref.actor.optim.lr=1e-5"))
    assert status != 0
    assert "holds a run of other settings" in text
