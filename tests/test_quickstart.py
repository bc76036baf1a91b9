"""The README's first command, as a user types it: a comparison, a resume, an outage. Minutes, not seconds."""

import json
import os
import re
import signal
from pathlib import Path

import pandas as pd
import pytest
from quickstart_runs import MULTI_TURN, REPOSITORY, Quickstart

from cleaner_lab.nano import shipped
from verl_cleaner.records import trajectories as trajectory_dump
from verl_cleaner.records.metrics import WITH_ROLLBACK

pytestmark = pytest.mark.end_to_end(4)


def metrics(folder: Path) -> dict[int, dict[str, float]]:
    return {entry["step"]: entry["data"] for entry in map(json.loads, (folder / "metrics.jsonl").open())}


def answers(folder: Path, step: int, *, dump: str = "validation") -> dict[str, str]:
    """Held-out task -> what the policy wrote, at that step's validation."""
    lines = map(json.loads, (folder / dump / f"{step}.jsonl").open())
    return {line["input"]: line["output"] for line in lines}


def agreement(one: dict[str, str], other: dict[str, str]) -> float:
    """Share of equal answers. Rounding depends on who shares a batch, so that a rare draw may fall elsewhere."""
    assert one.keys() == other.keys()
    return sum(one[task] == other[task] for task in one) / len(one)


FEWER_TASKS = (
    "data.val_max_samples=64",
    "trainer.test_freq=2",
    # Half of the quickstart's.
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    quickstart = Quickstart(out, "--compare", "--steps", "2", *FEWER_TASKS)
    status = quickstart.finish()
    assert status == 0, quickstart.text + quickstart.log()
    return quickstart


def test_it_tells_what_happens(compared):
    text = compared.text
    opening = " ".join(text.partition("[cleaner] A small policy")[2].split())
    assert re.search(r"in 2 steps of RL, .*: about \d minutes on two idle cores\.", opening)
    for arm in ("baseline", "cleaner", "leaves_half"):
        assert f"{arm}: starting" in text
    assert text.count("step   2/2  accuracy") == 3
    assert (
        len(re.findall(r"step   [02]/2  held-out accuracy 0\.\d+ of the policy alone, 0\.\d+ with rollback", text)) == 6
    )
    for row in ("before training", "baseline, step 2", "cleaner, step 2", "leaves_half, step 2"):
        assert re.search(rf"^{row} +0\.\d+ ± 0\.\d+  0\.\d+ ± 0\.\d+", text, re.MULTILINE), row
    assert "To try next" in text
    assert (compared.out / "curves.png").stat().st_size > 10_000
    assert f"for a browser: {compared.out / 'report.html'}" in text
    report = (compared.out / "report.html").read_text()
    assert '"name": "baseline"' in report
    assert '"name": "cleaner"' in report
    assert "parts of the data are missing" not in report
    assert not compared.left()


def test_a_repaired_turn_is_shown_while_it_trains(compared):
    lines = compared.text.splitlines()
    shown = next(number for number, line in enumerate(lines) if "A turn that was repaired in step 1" in line)
    first, last = (
        next(n for n, line in enumerate(lines) if n > shown - 9 and text in line)
        for text in ("step   1/2  accuracy", "step   2/2  accuracy")
    )
    assert first < shown < last
    changes = {line.lstrip()[:2] for line in lines[shown + 2 : last]}
    assert {"- ", "! ", "+ "} <= changes


def test_it_fits_a_terminal(compared):
    """But for paths and commands, which are as long as they are."""
    wide = [line for line in compared.text.splitlines() if len(line) > 80 and str(compared.out) not in line]
    assert not wide
    assert re.search(r"^\[cleaner\] baseline: \d+ s, starting", compared.text, re.MULTILINE)


def test_both_runs_begin_at_the_same_cold_start_which_is_no_expert(compared):
    assert agreement(*(answers(compared.out / arm, 0) for arm in ("baseline", "cleaner"))) > 0.98
    before = metrics(compared.out / "cleaner")[0]
    sizes = pd.read_parquet(shipped.FOLDER / "data/val.parquet")["data_source"].value_counts()
    solved, helped = (
        sum(before[f"{prefix}val-core/{source}/acc/mean@1"] * size for source, size in sizes.items()) / sizes.sum()
        for prefix in ("", WITH_ROLLBACK)
    )
    assert 0.2 <= solved <= 0.6
    # The same first attempts: repairs only add.
    assert helped > solved


def test_the_validation_with_rollback_repairs_whatever_the_training_does(compared):
    for arm in ("baseline", "cleaner"):
        found = metrics(compared.out / arm)
        for step in (0, 2):
            assert found[step][f"{WITH_ROLLBACK}val-aux/rollback/global_recovered"] > 5
            assert not found[step].get("val-aux/rollback/global_recovered")
    alone, helped = (
        answers(compared.out / "cleaner", 0, dump=dump) for dump in ("validation", "validation/with_rollback")
    )
    # Equal seeds: what needed no repair is the same.
    assert 0.4 < agreement(alone, helped) < 1


def test_failures_are_repaired_in_training_and_counted(compared):
    baseline, cleaner = (metrics(compared.out / arm)[1] for arm in ("baseline", "cleaner"))
    assert "rollback/global_triggered" not in baseline
    assert baseline["tool_calls/failures_per_trajectory"] > 0.2
    assert cleaner["rollback/global_triggered"] > 10
    assert 0.3 < cleaner["rollback/global_recovery_rate"] <= 1
    assert cleaner["tool_calls/failures_per_trajectory"] < baseline["tool_calls/failures_per_trajectory"] / 2
    leaves = metrics(compared.out / "leaves_half")[1]
    assert leaves["leaves/count"] > 5
    assert cleaner["tokens/generated"] == cleaner["tokens/kept"] + cleaner["tokens/discarded"]
    for key in ("critic/score/acc", "grpo/total_samples", "actor/grad_norm", "tool_calls/latency_s/p99"):
        assert key in cleaner, key


def test_the_dump_has_every_token_of_verls_text(compared):
    rollouts = compared.out / "cleaner" / "rollouts"
    texts = {row["uid"]: row["output"] for row in map(json.loads, (rollouts / "1.jsonl").open())}
    rows = trajectory_dump.read(rollouts / "trajectories" / "1.parquet")
    assert len(rows) == len(texts) == 64
    for row in rows:
        columns = [getattr(row, name) for name in ("tokens", "mask", "old_log_probs", "advantages")]
        assert len({len(column) for column in columns}) == 1
        text = re.sub(r"<\|(?:im_start|im_end|endoftext)\|>", "", "".join(row.tokens))
        assert text == texts[f"{row.uid}_{row.rollout}_{row.output}"]
        assert all(all(row.mask[start:end]) for start, end in row.spans)
    assert sum(len(row.spans) for row in rows) > 10
    assert trajectory_dump.read(compared.out / "cleaner" / "validation" / "trajectories" / "2.parquet")


def test_resume_goes_on_and_a_judge_that_dies_stops_the_run(compared, tmp_path):
    checkpoint = compared.out / "cleaner" / "checkpoints" / "global_step_2"
    tool = (REPOSITORY / "verl/verl_cleaner/conf/code_interpreter.yaml").read_text()
    (tmp_path / "tool.yaml").write_text(tool.replace("deadline: 120", "deadline: 3"))
    quickstart = Quickstart(
        tmp_path,
        "--steps",
        "50",
        *FEWER_TASKS,
        "trainer.validate_with_rollback=False",
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={checkpoint}",
        f"{MULTI_TURN}.tool_config_path={tmp_path / 'tool.yaml'}",
    )
    quickstart.until("step   3/50")
    judge = next(pid for pid, command in quickstart.processes().items() if "code_judge.cli serve" in command)
    os.kill(judge, signal.SIGKILL)
    assert quickstart.finish() != 0
    # Equal weights and seeds give equal answers; another step has others of both.
    saved = answers(compared.out / "cleaner", 2)
    assert agreement(answers(tmp_path / "cleaner", 2), saved) > 0.98
    assert agreement(answers(compared.out / "cleaner", 0), saved) < 0.95
    assert re.search(r"groups were lost, \d+ to outages", quickstart.text), quickstart.text + quickstart.log()
    assert "gave no verdict in 3 s" in quickstart.text
    assert not quickstart.left()
