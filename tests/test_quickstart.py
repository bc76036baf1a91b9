"""The README's first command, as a user types it: a comparison, a resume, an outage, a kill. Minutes, not seconds."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pandas as pd
import pytest

from cleaner_lab.nano import shipped
from verl_cleaner.records import trajectories as trajectory_dump

REPOSITORY = Path(__file__).parents[1]
MARK = "CLEANER_TEST_RUN"
MULTI_TURN = "actor_rollout_ref.rollout.multi_turn"


class Quickstart:
    """`quickstart.sh ARGUMENTS` with its output lines; `left` lists what still runs of it."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self.out = out
        self.mark = uuid.uuid4().hex
        # Short: Ray keeps sockets below it, whose paths may have 107 bytes.
        self.temporary = tempfile.mkdtemp(prefix="cleaner-", dir="/tmp")
        environment = os.environ | {MARK: self.mark, "OUTPUT_DIR": str(out), "TMPDIR": self.temporary}
        environment.pop("CODE_JUDGE_URL", None)
        self.process = subprocess.Popen(
            ["bash", "recipe/cleaner/quickstart.sh", *arguments],
            cwd=REPOSITORY,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []

    def until(self, text: str) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"{text!r} did not come:\n{self.text}\n{self.log()}")

    def finish(self) -> int:
        self.lines += self.process.stdout
        return self.process.wait(60)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def log(self) -> str:
        logs = [*self.out.glob("*/train.log"), *self.out.glob("judge.log")]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-6000:]}" for path in logs)

    def processes(self) -> dict[int, str]:
        """Ours are known by the mark in their environment; the sandbox's, which is cleaned, by its folder."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{MARK}={self.mark}".encode() in environment or self.temporary.encode() in command:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    def left(self, seconds: float = 30) -> dict[int, str]:
        """What is still there after `seconds`; returns as soon as nothing is."""
        end = time.monotonic() + seconds
        while (processes := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)
        return processes


def metrics(folder: Path) -> dict[int, dict[str, float]]:
    return {entry["step"]: entry["data"] for entry in map(json.loads, (folder / "metrics.jsonl").open())}


def answers(folder: Path, step: int) -> dict[str, str]:
    """Held-out task -> what the policy wrote, at that step's validation."""
    lines = map(json.loads, (folder / "validation" / f"{step}.jsonl").open())
    return {line["input"]: line["output"] for line in lines}


def agreement(one: dict[str, str], other: dict[str, str]) -> float:
    """Share of equal answers. Rounding depends on who shares a batch, so that a rare draw may fall elsewhere."""
    assert one.keys() == other.keys()
    return sum(one[task] == other[task] for task in one) / len(one)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    quickstart = Quickstart(out, "--compare", "--steps", "2")
    status = quickstart.finish()
    assert status == 0, quickstart.text + quickstart.log()
    return quickstart


def test_it_tells_what_happens(compared):
    text = compared.text
    for arm in ("baseline", "cleaner"):
        assert f"{arm}: starting" in text
    assert text.count("step   2/2  accuracy") == 2
    assert "rollbacks" in text
    assert "accuracy, families of the training" in text
    assert "accuracy, unseen family" in text
    assert "A repaired turn" in text
    assert "To try next" in text
    assert (compared.out / "curves.png").stat().st_size > 10_000
    assert f"for a browser: {compared.out / 'report.html'}" in text
    report = (compared.out / "report.html").read_text()
    assert '"name": "baseline"' in report
    assert '"name": "cleaner"' in report
    assert "parts of the data are missing" not in report
    assert not compared.left()


def test_both_runs_begin_at_the_same_cold_start_which_is_no_expert(compared):
    assert agreement(*(answers(compared.out / arm, 0) for arm in ("baseline", "cleaner"))) > 0.98
    before = metrics(compared.out / "cleaner")[0]
    sizes = pd.read_parquet(shipped.FOLDER / "data/val.parquet")["data_source"].value_counts()
    assert sizes.sum() >= 256
    solved = sum(before[f"val-core/{source}/acc/mean@1"] * size for source, size in sizes.items())
    assert 0.2 <= solved / sizes.sum() <= 0.6


def test_failures_are_repaired_in_training_and_counted(compared):
    baseline, cleaner = (metrics(compared.out / arm)[1] for arm in ("baseline", "cleaner"))
    assert "rollback/global_triggered" not in baseline
    assert baseline["tool_calls/failures_per_trajectory"] > 0.2
    assert cleaner["rollback/global_triggered"] > 10
    assert 0.3 < cleaner["rollback/global_recovery_rate"] <= 1
    assert cleaner["tool_calls/failures_per_trajectory"] < baseline["tool_calls/failures_per_trajectory"] / 2
    assert cleaner["tokens/generated"] == cleaner["tokens/kept"] + cleaner["tokens/discarded"]
    for key in ("critic/score/acc", "grpo/total_samples", "actor/grad_norm", "tool_calls/latency_s/p99"):
        assert key in cleaner, key


def test_the_dump_has_every_token_of_verls_text(compared):
    rollouts = compared.out / "cleaner" / "rollouts"
    texts = {row["uid"]: row["output"] for row in map(json.loads, (rollouts / "1.jsonl").open())}
    rows = trajectory_dump.read(rollouts / "trajectories" / "1.parquet")
    assert len(rows) == len(texts) == 128
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


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("cleaner_lab.nano.quickstart", signal.SIGINT),
        ("cleaner_lab.nano.quickstart", signal.SIGKILL),
        ("verl_cleaner.main_ppo", signal.SIGKILL),
    ],
)
def test_a_killed_run_leaves_nothing_behind(tmp_path, module, number):
    quickstart = Quickstart(tmp_path)
    quickstart.until("cleaner: 15 s")
    processes = quickstart.processes().items()
    os.kill(next(pid for pid, command in processes if f"-m {module}" in command), number)
    assert quickstart.finish() != 0
    assert not quickstart.left()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "3"], "unknown argument '--step'"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (
            [f"+{MULTI_TURN}.rollback_similarity_threshold=1.4"],
            "rollback_similarity_threshold must be in [0, 1], got 1.4",
        ),
        ([f"+{MULTI_TURN}.max_tool_retrys=2"], "max_tool_retries"),
        (["data.train_files=/nowhere/train.parquet"], "/nowhere/train.parquet"),
    ],
)
def test_bad_input_is_named(tmp_path, arguments, message):
    quickstart = Quickstart(tmp_path, *arguments)
    assert quickstart.finish() != 0
    assert message in quickstart.text
    assert "Traceback" not in quickstart.text
