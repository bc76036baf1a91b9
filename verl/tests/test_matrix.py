"""The matrix of set-ups: every cell of the shipped file composes and passes the preflight, or is refused by name; what
becomes of a cell that fails, hangs, resumes or is not for this host."""

import importlib.util
import json
import sys
from argparse import Namespace
from functools import cache
from pathlib import Path

import pytest
from composing import composed, overridden
from omegaconf import DictConfig
from tiny import tiny_sglang
from verl.checkpoint_engine import CheckpointEngineRegistry

from cleaner_lab.experiments.grid import GridError
from cleaner_lab.matrix import __main__ as command
from cleaner_lab.matrix import run as run_module
from cleaner_lab.matrix.cells import Cell, facts, read_matrix
from cleaner_lab.matrix.table import Outcome, Result, _set_up, figures, read, table, write
from cleaner_lab.nano import shipped
from verl_cleaner.preflight import checks, host, lora, model, prepare
from verl_cleaner.preflight.finding import Level

MATRIX = Path(__file__).parents[2] / "recipe/cleaner/matrix.yaml"
CELLS = {cell.full_name: cell for cell in read_matrix(MATRIX)}
REFUSED = {f"{on}/ulysses_without_flash_attn": {"attention"} for on in ("cpu", "sglang", "vllm", "vllm_cpu")} | {
    "cpu/lora": {"cpu"},
    "sglang/lora": {"sglang_lora"},
}
"""By the check of this name."""
WITHOUT_ENGINE = {"vllm/lora": {"verl"}, "vllm_cpu/lora": {"verl"}}
"""Where neither vLLM nor SGLang is installed: VeRL asks it for its version."""
if any(map(importlib.util.find_spec, ("vllm", "sglang"))):
    WITHOUT_ENGINE.clear()

FILES = [
    f"actor_rollout_ref.model.path={shipped.FOLDER}/model",
    f"data.train_files={shipped.FOLDER}/data/train.parquet",
    f"data.val_files={shipped.FOLDER}/data/val.parquet",
    "++trainer.skip_checks=[judge]",
]


@pytest.fixture(autouse=True)
def on_a_gpu_host(monkeypatch, tmp_path):
    """With every engine, in the trainer's process; of SGLang, the version that is locked."""
    stock, sglang = lora._folder, tiny_sglang(tmp_path / "packages", "serialized_tensors")
    monkeypatch.setattr(lora, "_folder", lambda name: sglang if name == "sglang" else stock(name))
    monkeypatch.setattr(host, "find_spec", lambda name: importlib.util.find_spec("json"))
    monkeypatch.setattr(host, "_in_ray", lambda: True)
    monkeypatch.setitem(CheckpointEngineRegistry._registry, "nccl", object)


@cache
def composition(name: str) -> DictConfig:
    """Of a cell; do not change it. Hydra chooses groups of files; values are set as Hydra sets them (`composing`)."""
    cell = CELLS[name]
    groups = [text for text in cell.overrides if text.startswith("model_engine=")]
    return overridden(
        composed(cell.platform.config_name, *groups), [text for text in cell.overrides if text not in groups]
    )


@pytest.fixture
def composed_once(monkeypatch):
    monkeypatch.setattr(Cell, "composed", lambda cell: composition(cell.full_name))


@pytest.mark.parametrize("name", ["cpu/rescore", "vllm_cpu/separate_async", "sglang/megatron", "vllm/critic"])
def test_a_composition_is_what_hydra_makes(name):
    assert composition(name) == CELLS[name].composed()


READ = {}
"""One model for all cells: reading it takes a second."""


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if not cell.script])
def test_a_cell_passes_the_preflight_or_is_refused_by_name(name, monkeypatch):
    stock = model._read
    monkeypatch.setattr(model, "_read", lambda config: READ.get("model") or READ.setdefault("model", stock(config)))
    config = overridden(composition(name), FILES)
    prepare(config)
    found = checks.findings(config, {**checks.CONFIGURATION, **checks.TRAINER_NODE})
    refused = {finding.check for finding in found if finding.level is Level.ERROR}
    assert refused == (REFUSED | WITHOUT_ENGINE).get(name, set()), found
    assert not any("could not be made" in finding.text for finding in found), found


def test_the_cells_cover_what_the_table_promises(composed_once):
    of_engine = [facts(cell) for name, cell in CELLS.items() if name.startswith("sglang/") and not cell.script]
    for key, values in {
        "engine": {"sglang"},
        "trainer": {"fsdp", "fsdp2", "megatron"},
        "precision": {"bf16", "fp16"},
        "lora": {0, 8},
        "rescore": {False, True},
        "leaves": {False, True},
        "resume": {False, True},
        "sequence_parallel": {1, 2},
        "gpus": {1, 2},
    }.items():
        assert {known[key] for known in of_engine} == values, key
    named = {name.partition("/")[2] for name in CELLS if name.startswith("sglang/")}
    assert named - {name.partition("/")[2] for name in CELLS if name.startswith("vllm/")} == {"smollm2"}


def test_the_page_has_every_cell_on_cpu_and_those_of_a_gpu_as_they_are(composed_once):
    page = (MATRIX.parents[2] / "docs/recipes.md").read_text()
    tables = [row for row in page.splitlines() if row.startswith(("| cpu/", "| vllm_cpu/", "| sglang/", "| vllm/"))]
    rows = [[word.strip() for word in row.split("|")[1:4]] for row in tables]
    on_cpu = {name for name, cell in CELLS.items() if cell.platform.device == "cpu"}
    assert on_cpu < {name for name, *_ in rows}
    for name, set_up, outcome in rows:
        assert set_up == _set_up(Result(name, "", facts(CELLS[name]), Outcome.RAN)), name
        assert outcome.startswith("**refused** by" if name in REFUSED else "4 steps"), name
        assert all(f"`{check}`" in outcome for check in REFUSED.get(name, ())), name


# ---- what becomes of a cell ------------------------------------------------------------------------------------------

TRAINING = """
import json, os, sys
given = dict(text.partition("=")[::2] for text in sys.argv[1:] if "=" in text)
kind, steps = given["kind"], int(given["trainer.total_training_steps"])
if kind == "refused":
    sys.exit("error: 1 problem before the start:\\n  - a.b=1 is wrong [some_check]\\nA check that is wrong")
if kind == "hangs":
    import time
    time.sleep(60)
first = 2 if given["trainer.resume_mode"] == "auto" and kind != "forgets" else 1
with open(os.environ["VERL_FILE_LOGGER_PATH"], "w") as file:
    for step in range(first, steps + (kind != "short")):
        data = {"timing_s/step": 2.0 * step, "critic/score/acc": 0.25 * step}
        data["training/rollout_probs_diff_max"] = 0.5 / step
        file.write(json.dumps({"step": step, "data": data}) + "\\n")
if kind == "late" and not os.path.exists(begun := os.path.join(os.path.dirname(given["hydra.run.dir"]), "begun")):
    open(begun, "w").close()
    raise Exception("The current node timed out during startup. This could happen because")
if kind == "fails":
    raise ValueError("no memory")
"""
SMALL = """
steps: 3
seconds: 30
platforms:
  here: {device: cpu, config_name: quickstart, cold_start: {nano: {seed: 0}}}
  poor: {device: cpu, needs: [no_such_package], config_name: quickstart, cold_start: {nano: {seed: 0}}}
  there: {device: gpu, config_name: cleaner, cold_start: {nano: {seed: 0}}}
cells:
  runs: {platforms: [here], overrides: [+kind=runs]}
  refused: {platforms: [here, there], overrides: [+kind=refused]}
  late: {platforms: [here], overrides: [+kind=late]}
  fails: {platforms: [here], overrides: [+kind=fails]}
  short: {platforms: [here], overrides: [+kind=short]}
  hangs: {platforms: [here], seconds: 2, overrides: [+kind=hangs]}
  resumes: {platforms: [here], resume: True, overrides: [+kind=resumes]}
  forgets: {platforms: [here], resume: True, overrides: [+kind=forgets]}
  lacks: {platforms: [poor], overrides: [+kind=runs]}
  script: {platforms: [here], script: 'echo "{}" > "$OUTPUT_DIR/page"; exit $((STEPS - 3))'}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the matrix with a stand-in for the training; returns the exit's text, or None, and the results."""
    (tmp_path / "verl_cleaner").mkdir()
    (tmp_path / "matrix.yaml").write_text(SMALL)
    training = tmp_path / "training.py"
    training.write_text(TRAINING)
    stock = run_module.command

    def stand_in(*args):
        words = stock(*args)
        return (
            words if words[0] == "bash" else [sys.executable, str(training), *(word.lstrip("+") for word in words[3:])]
        )

    monkeypatch.setattr(run_module, "command", stand_in)
    monkeypatch.setattr(command, "gpus", lambda: ())
    monkeypatch.delenv("DRY_RUN", raising=False)

    def run(*arguments):
        argv = ["matrix", str(tmp_path / "matrix.yaml"), "--out", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        try:
            ended = command.main()
        except SystemExit as error:
            ended = str(error)
        return ended, read(tmp_path / "out")

    return run


def test_no_cell_stops_the_others(run, capsys):
    ended, results = run("--parallel", "3")
    outcomes = {name.removeprefix("here/"): result.outcome for name, result in results.items()}
    assert outcomes == {
        "runs": Outcome.RAN,
        # Ray itself did not start in time, at first.
        "late": Outcome.RAN,
        "refused": Outcome.REFUSED,
        "fails": Outcome.FAILED,
        "short": Outcome.FAILED,
        "hangs": Outcome.FAILED,
        "resumes": Outcome.RAN,
        "forgets": Outcome.FAILED,
        "script": Outcome.FAILED,
        "poor/lacks": Outcome.NOT_HERE,
        "there/refused": Outcome.NOT_HERE,
    }
    assert results["here/refused"].message == "- a.b=1 is wrong [some_check]"
    assert "ValueError: no memory" in results["here/fails"].message
    assert "at step 2 of 3" in results["here/short"].message
    assert "no end after" in results["here/hangs"].message
    assert "went on with step 1, expected 2" in results["here/forgets"].message
    assert "not installed: no_such_package" in results["poor/lacks"].message
    assert results["there/refused"].message == "no GPU"
    assert results["here/resumes"].figures["steps"] == 3
    assert "5 cells failed or did not begin" in ended
    printed = capsys.readouterr().out
    assert "| here/runs | fsdp2, fp32 | 3 steps | 75.0 |" in printed
    assert "Not here, no GPU: there/refused." in printed


def test_what_ran_is_kept_and_the_rest_is_tried_again(run, capsys):
    run("--cells", "runs,fails")
    run("--cells", "runs,fails")
    begun = [line for line in capsys.readouterr().out.splitlines() if "cells to run" in line]
    assert [line.partition(";")[0] for line in begun] == [
        "[cleaner] 2 cells to run, 0 others",
        "[cleaner] 1 cells to run, 1 others",
    ]


def test_cells_that_are_not_chosen_keep_their_rows(run, tmp_path, capsys):
    run("--cells", "fails,runs", "--platforms", "here")
    first = read(tmp_path / "out")
    assert {name: result.outcome for name, result in first.items()} == {
        "here/runs": Outcome.RAN,
        "here/fails": Outcome.FAILED,
    }
    capsys.readouterr()
    ended, results = run("--cells", "refused", "--platforms", "here")
    # What the command says is about the chosen cell alone.
    assert ended is None
    assert "here/runs" not in capsys.readouterr().out
    assert list(results) == ["here/runs", "here/refused", "here/fails"]
    assert results["here/refused"].outcome is Outcome.REFUSED
    assert {name: results[name] for name in first} == first
    rows = [line.split("|")[1].strip() for line in (tmp_path / "out/table.md").read_text().splitlines()[2:]]
    assert rows == list(results)
    run("--cells", "lacks")
    assert list(read(tmp_path / "out")) == [*results, "poor/lacks"]
    capsys.readouterr()
    run("--cells", "runs,refused", "--platforms", "here")
    assert "1 cells to run, 1 others" in capsys.readouterr().out


def test_cells_that_the_file_no_longer_has_lose_their_rows(run, tmp_path):
    run("--cells", "runs,refused", "--platforms", "here")
    (tmp_path / "matrix.yaml").write_text(SMALL.replace("  runs:", "  renamed:"))
    _, results = run("--cells", "refused", "--platforms", "here")
    assert list(results) == ["here/refused"]


def test_nothing_begins_when_the_time_is_over(run):
    ended, results = run("--cells", "hangs,runs", "--minutes", "0")
    assert {result.outcome for result in results.values()} == {Outcome.NOT_BEGUN}
    assert "2 cells failed or did not begin" in ended


def test_a_cell_leaves_out_what_does_not_fit(tmp_path):
    text = SMALL.replace(
        "cells:", "overrides: [a.b=1, +c=2, +kind=x]\ncells:\n  bare: {without: [c], overrides: [d=3]}"
    )
    (tmp_path / "matrix.yaml").write_text(text)
    cells = read_matrix(tmp_path / "matrix.yaml", more=("e=4",))
    assert {cell.overrides for cell in cells if cell.name == "bare"} == {("a.b=1", "+kind=x", "d=3", "e=4")}


def test_cells_spread_over_gpus():
    one, two = CELLS["sglang/leaves"], CELLS["sglang/two"]
    free = {"": 1, "0": 2, "1": 2}
    assert command.places(one, free) == ["0"]
    assert command.places(one, free | {"0": 1}) == ["1"]
    assert command.places(two, free) == ["0", "1"]
    assert command.places(two, free | {"0": 0}) == []
    assert command.places(CELLS["cpu/leaves"], free) == [""]
    assert command.places(CELLS["cpu/leaves"], free | {"": 0}) == []


def test_a_cell_of_two_gpus_does_not_wait_for_those_of_one(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "gpus", lambda: ("0", "1"))
    one = "  one: {platforms: [there], overrides: [+kind=runs]}\n"
    (tmp_path / "matrix.yaml").write_text(SMALL + one + one.replace("one", "two").replace("{", "{gpus: 2, "))
    options = Namespace(out=tmp_path / "out", python=[], parallel=1, minutes=1)
    cells = [cell for cell in read_matrix(tmp_path / "matrix.yaml") if cell.name in ("one", "two")]
    matrix = command.Matrix(cells, options, order=[cell.full_name for cell in cells])
    working, free = [], {"": 1, "0": 1, "1": 1}
    matrix._begin(working, free, over=False)
    begun = [run.cell.name for run in working]
    for run in working:
        run.close()
    assert begun == ["two"]
    assert [cell.name for cell in matrix.waiting] == ["one"]


def test_figures_are_of_training_steps():
    steps = {
        0: {"val-core/x/acc/mean@1": 1.0},
        1: {"timing_s/step": 9.0, "critic/score/acc": 0.1, "training/rollout_probs_diff_max": 0.3, "leaves/count": 2},
        2: {"timing_s/step": 3.0, "critic/score/acc": 0.2, "training/rollout_probs_diff_max": 0.1, "leaves/count": 1},
    }
    # As VeRL logs it, from the actor's worker.
    steps[1]["actor/perf/max_memory_reserved_gb"] = 0.4
    assert figures(steps) == {
        "steps": 2,
        "accuracy": 0.2,
        "leaves": 3,
        "max_probability_difference": 0.3,
        "gpu_gb": 0.4,
        "seconds_per_step": 3.0,
    }
    assert figures({0: {"val-core/x/acc/mean@1": 1.0}}) == {"steps": 0}


def test_results_survive_the_file(tmp_path):
    results = [Result("cpu/a", "f", facts(CELLS["cpu/leaves"]), Outcome.FAILED, "a | b\nc", {"steps": 0}, 1.5)]
    write(tmp_path, results)
    assert list(read(tmp_path).values()) == results
    assert "**failed** a \\| b c" in table(results)
    assert json.loads((tmp_path / "results.jsonl").read_text())["outcome"] == "failed"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("device: cpu", "device: tpu", "platforms.here.device: got 'tpu', expected cpu or gpu"),
        ("platforms: [here], seconds", "platforms: [nowhere], seconds", "cells.hangs.platforms: got 'nowhere'"),
        ("seconds: 2, ", "second: 2, ", "cells.hangs: got {"),
        ("overrides: [+kind=hangs]", "overrides: +kind=hangs", "cells.hangs.overrides: got '+kind=hangs'"),
        ("{nano: {seed: 0}}}", "{nano: {sed: 0}}}", "cold_start.nano: unknown key 'sed'"),
    ],
)
def test_bad_files_are_named(tmp_path, old, new, message):
    assert old in SMALL
    path = tmp_path / "matrix.yaml"
    path.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(GridError) as error:
        read_matrix(path)
    assert message in str(error.value)
    assert "matrix.yaml" in str(error.value)
