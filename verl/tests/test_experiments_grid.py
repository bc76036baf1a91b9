"""The YAML file of a grid: what it means, and what is said about a bad one."""

import copy
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from composing import composed, overridden
from omegaconf import OmegaConf, open_dict

from cleaner_lab.experiments import results, series
from cleaner_lab.experiments.experiment import Experiment, devices
from cleaner_lab.experiments.grid import ColdStart, GridError
from cleaner_lab.experiments.grid_file import read_grid
from cleaner_lab.experiments.plan import PER_RUN, differences, of_workers, worker_part
from cleaner_lab.experiments.series import last_logged_checkpoint
from verl_cleaner.records.metrics import read_steps

NANO = Path(__file__).parents[2] / "recipe/cleaner/experiments/nano.yaml"
GOOD = """
name: small
config_name: quickstart
cold_start: {nano: {seed: 5}}
steps: 4
seeds: [0, 1]
overrides: [a=1]
methods:
  baseline: []
  other: {overrides: [b=2], seeds: [1, 2]}
"""


def grid_of(tmp_path, text):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    return read_grid(path)


def test_runs_of_a_seed_stand_together(tmp_path):
    grid = grid_of(tmp_path, GOOD)
    assert [run.name for run in grid.runs()] == [
        "baseline/seed0",
        "baseline/seed1",
        "other/seed1",
        "other/seed2",
    ]
    assert [run.name for run in grid.runs(seeds=[2, 0])] == ["baseline/seed0", "other/seed2"]
    with pytest.raises(GridError, match=r"no run has a seed of \[7\]; the grid small has other \[1, 2\]"):
        grid.runs(methods=["other"], seeds=[7])
    (run,) = grid.runs(methods=["other"], seeds=[1], steps=9)
    assert run.overrides == (
        "data.seed=1",
        "actor_rollout_ref.rollout.seed=1",
        "trainer.total_training_steps=9",
        "a=1",
        "b=2",
    )


def test_the_fingerprint_is_of_settings_and_cold_start(tmp_path):
    runs = grid_of(tmp_path, GOOD).runs()
    prints = {run.fingerprint(name, start) for run in runs for name in ("a", "b") for start in ("one", "two")}
    assert len(prints) == 4 * len(runs)
    assert runs[0].fingerprint("a", "one") == runs[0].fingerprint("a", "one")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "name: A B", "name: got 'A B', expected a short name"),
        ("steps: 4", "steps: 0", "steps: got 0, expected a positive number"),
        ("steps: 4", "step: 4", "unknown keys ['step']"),
        ("steps: 4", "", "the keys ['steps'] are missing"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds: got [0, 0], expected a list of whole numbers, none twice"),
        ("overrides: [a=1]", "overrides: [a]", "overrides: got ['a'], expected a list of Hydra overrides key=value"),
        ("{seed: 5}", "{sed: 5}", "cold_start.nano: unknown key 'sed'"),
        ("{seed: 5}", "{traces: many}", "cold_start.nano.traces: got 'many', expected int"),
        ("{nano: {seed: 5}}", "{model: 5, train: x, val: x}", "cold_start: got {'model': 5"),
        ("overrides: [a=1]", "overrides:", "overrides: got None, expected a list"),
        ("overrides: [a=1]", "extends: grid.yaml", "extends itself"),
        ("{nano: {seed: 5}}", "{model: x}", "cold_start: got {'model': 'x'}, expected"),
        ("baseline: []", "Base: []", "methods.Base: expected a name of small letters"),
        ("seeds: [1, 2]}", "seeds: 1}", "methods.other.seeds: got 1"),
        ("seeds: [1, 2]}", "sed: 1}", "methods.other: unknown keys ['sed']"),
        ("name: small", "name: [", "is not YAML"),
    ],
)
def test_bad_grids_are_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(GridError) as error:
        grid_of(tmp_path, GOOD.replace(old, new, 1))
    assert message in str(error.value)
    assert "grid.yaml" in str(error.value)


def test_a_grid_extends_another(tmp_path):
    (tmp_path / "base.yaml").write_text(GOOD)
    grid = grid_of(tmp_path, "extends: base.yaml\nname: longer\nsteps: 8\noverrides: [c=3]\n")
    assert (grid.name, grid.steps, grid.overrides) == ("longer", 8, ("a=1", "c=3"))
    assert [method.name for method in grid.methods] == ["baseline", "other"]
    assert grid.cold_start == {"nano": {"seed": 5}}
    grid = grid_of(tmp_path, "extends: base.yaml\ncold_start: {nano: {calls: 3}}\n")
    assert grid.cold_start == {"nano": {"seed": 5, "calls": 3}}
    files = {"model": "m", "train": "t", "val": "v"}
    assert grid_of(tmp_path, f"extends: base.yaml\ncold_start: {files}\n").cold_start == files
    with pytest.raises(GridError, match=r"gone\.yaml does not exist"):
        grid_of(tmp_path, "extends: gone.yaml\n")


def test_an_unknown_method_is_named(tmp_path):
    with pytest.raises(GridError, match="unknown method 'cleaner'; the grid small has baseline, other"):
        grid_of(tmp_path, GOOD).runs(methods=["cleaner"])


def test_the_cold_start_is_checked_by_its_bytes(tmp_path):
    start = ColdStart(tmp_path, tmp_path / "train", tmp_path / "val")
    with pytest.raises(GridError, match=r"has no \*\.safetensors"):
        start.digest()
    for name in ("model.safetensors", "train"):
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(GridError, match="val does not exist"):
        start.digest()
    (tmp_path / "val").write_bytes(b"val")
    before = start.digest()
    (tmp_path / "config.json").write_bytes(b"{}")
    with_config = start.digest()
    (tmp_path / "val").write_bytes(b"other")
    assert len({before, with_config, start.digest()}) == 3


def compose(path):
    grid = read_grid(path)
    return {run.name: overridden(composed(grid.config_name), run.overrides) for run in grid.runs(seeds=[0])}


@pytest.fixture(scope="module")
def configs():
    return compose(NANO)


GRIDS = sorted(path for path in NANO.parent.glob("*.yaml") if path.stem != "numkit_tool")


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_runs_of_a_shipped_grid_share_their_workers(configs, path):
    """Every run composes, and those whose overrides say so differ in nothing that a worker keeps."""
    runs = read_grid(path).runs(seeds=[0])
    found = configs if path == NANO else compose(path)
    alike = {}
    for run in runs:
        alike.setdefault(of_workers(run.overrides), []).append(found[run.name])
    assert len(alike) == len({run.method for run in runs} & {"pairs"}) + 1
    for first, *others in alike.values():
        for config in others:
            assert not differences(worker_part(first), worker_part(config))


def test_leaves_have_the_weight_that_their_results_were_published_with():
    leaf = "+actor_rollout_ref.rollout.multi_turn.rollback_failed_calls=leaf"
    found = set()
    for path in GRIDS:
        for method in read_grid(path).methods:
            if leaf in method.overrides:
                full = "+actor_rollout_ref.rollout.multi_turn.rollback_failed_call_weight=full" in method.overrides
                assert full != method.name.endswith("_split"), (path.name, method.name)
                found.add(method.name)
    assert found == {"leaves", "leaves_half", "leaves_half_split"}


def test_the_methods_of_the_shipped_grid_are_what_their_names_say(configs):
    turns = {name: config.actor_rollout_ref.rollout.multi_turn for name, config in configs.items()}
    assert not turns["baseline/seed0"].get("enable_tool_rollback", False)
    for name, found in turns.items():
        if not name.startswith("baseline"):
            assert found.enable_tool_rollback
            assert not found.rollback_at_validation
    assert turns["keep/seed0"].rollback_mode == "keep"
    assert turns["void/seed0"].rollback_mode == "void"
    assert turns["p05/seed0"].rollback_probability == 0.5
    assert turns["p07/seed0"].rollback_probability == 0.7
    assert turns["gamma0/seed0"].rollback_similarity_threshold == 0
    assert turns["gamma1/seed0"].rollback_similarity_threshold == 1
    assert turns["cleaner_is/seed0"].rollback_logprobs == "rescore"
    for name in ("baseline_is/seed0", "cleaner_is/seed0"):
        assert configs[name].algorithm.rollout_correction.rollout_is == "sequence"
        assert configs[name].actor_rollout_ref.rollout.calculate_log_probs


@pytest.mark.parametrize(
    "override", ["actor_rollout_ref.actor.optim.lr=1", "data.train_batch_size=3", "trainer.n_gpus_per_node=2"]
)
def test_what_a_worker_keeps_may_not_differ(configs, override):
    grid = read_grid(NANO)
    other = overridden(composed(grid.config_name), [*grid.runs()[0].overrides, override])
    (found,) = differences(worker_part(configs["baseline/seed0"]), worker_part(other))
    assert found.startswith(override.split("=")[0])


def test_every_key_of_a_run_exists(configs):
    for key in PER_RUN:
        assert OmegaConf.select(configs["baseline/seed0"], key, throw_on_missing=True) is not None, key


def test_the_failed_turns_recovered_are_of_the_steps_with_some():
    found = results.of_step({"rollback/global_triggered": 4, "rollback/global_recovery_rate": 0.5})
    assert found == {"train/recovery_rate": 0.5}


def test_a_run_goes_on_from_a_step_that_was_logged(tmp_path):
    """VeRL saves a step before it logs it."""
    metrics, checkpoints = tmp_path / "metrics.jsonl", tmp_path / "checkpoints"
    for step in (2, 4, 10):
        (checkpoints / f"global_step_{step}").mkdir(parents=True)
    assert last_logged_checkpoint(checkpoints, metrics) is None
    lines = [{"step": step, "data": {"timing_s/step": 1.0}} for step in range(1, 10)]
    lines.append({"step": 10, "data": {"val-core/a/acc/mean@1": 1.0}})
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert last_logged_checkpoint(checkpoints, metrics) == checkpoints / "global_step_4"
    metrics.write_text(json.dumps(lines[0]) + "\n")
    assert last_logged_checkpoint(checkpoints, metrics) is None


def test_folders_hold_one_setting(tmp_path):
    """Also of the runs that were not asked for."""
    (tmp_path / "cold").mkdir()
    start = ColdStart(tmp_path / "cold", tmp_path / "train", tmp_path / "val")
    for file in (tmp_path / "cold/model.safetensors", start.train, start.val):
        file.write_bytes(b"1")
    grid = grid_of(tmp_path, GOOD)
    out = tmp_path / "out"
    experiment = Experiment(grid, start, out, ())
    with pytest.raises(GridError, match="another process works in"):
        Experiment(grid, start, out, ())
    planned = experiment.planned(grid.runs()[0])
    experiment._lock.close()
    (out / planned.name).mkdir(parents=True)
    (out / planned.name / "settings.json").write_text(json.dumps(planned.settings))
    same = Experiment(grid, start, out, ())
    assert len(same.left(grid.runs())) == 4
    with pytest.raises(GridError, match="baseline/seed0 holds a run of other settings"):
        same.left(grid.runs(steps=9))
    same._lock.close()
    with pytest.raises(GridError, match="baseline/seed0 holds a run of other settings"):
        Experiment(grid, start, out, ("c=3",))
    start.val.write_bytes(b"2")
    with pytest.raises(GridError, match="another cold start"):
        Experiment(grid, start, out, ())
    with pytest.raises(GridError, match=r"trainer\.default_local_dir is set for each run"):
        Experiment(grid, start, tmp_path / "new", ("trainer.default_local_dir=x",))


def test_what_a_series_cannot_set_back_is_refused(configs):
    config = copy.deepcopy(configs["baseline/seed0"])
    assert series._problems(config) == []
    with open_dict(config):
        config.algorithm.adv_estimator = "gae"
        config.actor_rollout_ref.actor.checkpoint.save_contents = ["model"]
        config.trainer.metrics_address = "0.0.0.0:1"
    found = "\n".join(series._problems(config))
    for text in ("has no critic", "save_contents lacks ['extra', 'optimizer']", "metrics_address=0.0.0.0:1"):
        assert text in found


def test_a_step_logged_twice_is_merged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [(0, {"a": 1}), (1, {"a": 2, "b": 3}), (1, {"a": 4})]
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in lines))
    assert read_steps(path) == {0: {"a": 1}, 1: {"a": 4, "b": 3}}


def test_rows_name_what_was_logged():
    accuracy = "val-core/reasoning_gym/{}/acc/mean@1"
    validation = {accuracy.format("gcd"): 0.5, accuracy.format("lcm"): 1.0, accuracy.format("basic_arithmetic"): 0.25}
    training = {"critic/score/acc": 0.75, "timing_s/step": 2, "rollback/gap/mean": None}
    # Nothing failed, so that nothing was recovered.
    idle = {"rollback/global_triggered": 0, "rollback/global_recovery_rate": 0.0}
    steps = {0: validation, 1: training | idle}
    assert list(results.rows("m", 3, steps, validation)) == [
        ("m", 3, 0, "held_out/accuracy", 0.75),
        ("m", 3, 0, "held_out/unseen_accuracy", 0.25),
        ("m", 3, 1, "train/accuracy", 0.75),
        ("m", 3, 1, "train/seconds", 2.0),
        ("m", 3, 1, "held_out_rollback/accuracy", 0.75),
        ("m", 3, 1, "held_out_rollback/unseen_accuracy", 0.25),
    ]


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "device=cuda, but PyTorch sees no GPU"), ("gpu", "device: got 'gpu', expected cpu or cuda")],
)
def test_a_cold_start_needs_its_device(tmp_path, monkeypatch, device, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    grid = replace(read_grid(NANO), cold_start={"nano": {"device": device}})
    with pytest.raises(GridError, match=message):
        grid.prepare_cold_start(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("visible", "per_run", "groups"),
    [
        ("0,1,2,3", 1, ["0", "1", "2", "3", "0"]),
        ("2,3,5,7", 2, ["2,3", "5,7", "2,3"]),
        ("4", 1, [None]),
        ("0,1", 2, [None]),
    ],
)
def test_groups_side_by_side_spread_over_the_gpus(monkeypatch, visible, per_run, groups):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    overrides = ["trainer.n_gpus_per_node=8", f"trainer.n_gpus_per_node={per_run}"]
    assert [devices(n, overrides).get("CUDA_VISIBLE_DEVICES") for n in range(len(groups))] == groups


def test_an_end_that_waits_is_given_up(caplog):
    def fail():
        try:
            raise BlockingIOError("no process left")
        finally:
            with series.within(0.1):
                threading.Event().wait(60)

    start = time.monotonic()
    with pytest.raises(BlockingIOError):
        fail()
    assert time.monotonic() - start < 30
    assert "given up" in caplog.text
    with series.within(60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_after_an_error_exit_handlers_do_not_keep_the_process(tmp_path):
    script = """
import atexit, time
from verl_cleaner import main_ppo
main_ppo.END_SECONDS = 0.2
atexit.register(time.sleep, 600)
with main_ppo.errors_in_a_line():
    raise BlockingIOError("no process left")
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert process.returncode == -signal.SIGALRM
    assert "BlockingIOError: no process left" in process.stderr


def test_the_front_ends_start_without_verl_and_torch():
    """They take seconds; what trains is another process."""
    modules = ("cleaner_lab.experiments.__main__", "cleaner_lab.matrix.__main__", "cleaner_lab.nano.quickstart")
    program = f"import sys, {', '.join(modules)}; print({{'verl', 'torch', 'ray'}} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60) == "set()\n"
