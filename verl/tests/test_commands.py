"""Commands of other people's: legitimate ones pass the preflight, broken ones are refused or warned about.

They are composed from VeRL's own YAML, as `python -m verl.trainer.main_ppo` does, with the two lines of docs/adopt.md.
"""

import importlib.util
import json
import shlex
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pytest
import verl
import yaml
from composing import composed as compose_once
from composing import overridden
from omegaconf import open_dict
from tiny import tiny_model, tiny_sglang
from verl.checkpoint_engine import CheckpointEngineRegistry

from verl_cleaner import preflight
from verl_cleaner.enable import enable
from verl_cleaner.preflight import checks, host, lora, model
from verl_cleaner.preflight.finding import Level

VERL = Path(verl.__file__).parent / "trainer" / "config"
COMMANDS = Path(__file__).parent / "commands"
ADOPTED = Path(__file__).parent / "adopted"
LEGITIMATE = yaml.safe_load((COMMANDS / "legitimate.yaml").read_text())
BROKEN = yaml.safe_load((COMMANDS / "broken.yaml").read_text())
BASE = "gsm8k_tool_sglang"

TRAINER = "trainer.v1.trainer_mode=cleaner"
LINES = f"{TRAINER} +actor_rollout_ref.rollout.multi_turn.enable_tool_rollback=True"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    tiny_model(folder / "model")
    tiny_model(folder / "untrained")
    file = folder / "untrained" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if "tool_call" not in token["content"]]
    file.write_text(json.dumps(content))
    row = {"prompt": [{"role": "user", "content": "1 + 1?"}]}
    scored = row | {"data_source": "gsm8k", "reward_model": {"ground_truth": "2"}}
    kinds = {
        "prompts": row | {"agent_name": "tool_agent"},
        "plain": scored,
        "tool": scored | {"agent_name": "tool_agent", "extra_info": {"index": 0}},
        "own_loop": scored | {"agent_name": "own_loop"},
    }
    (folder / "data").mkdir()
    for kind, one in kinds.items():
        pd.DataFrame([one] * 16).to_parquet(folder / "data" / f"{kind}.parquet")
    (folder / "data" / "plain.jsonl").write_text(16 * (json.dumps(scored) + "\n"))
    return folder


@pytest.fixture(autouse=True)
def on_a_gpu_host(monkeypatch, tmp_path):
    """With every package that a command names, in the trainer's process; of SGLang, the version that is locked."""
    stock, sglang = lora._folder, tiny_sglang(tmp_path, "serialized_tensors")
    monkeypatch.setattr(lora, "_folder", lambda name: sglang if name == "sglang" else stock(name))
    monkeypatch.setattr(host, "find_spec", lambda name: importlib.util.find_spec("json"))
    monkeypatch.setattr(host, "_in_ray", lambda: True)
    monkeypatch.setitem(CheckpointEngineRegistry._registry, "nccl", object)
    monkeypatch.syspath_prepend(ADOPTED)
    monkeypatch.setenv("CODE_JUDGE_URL", "http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def one_model(folder, monkeypatch):
    """Reading one takes a second; all commands have the same two."""
    stock = model._read

    @lru_cache(None)
    def read(path):
        return stock(composed(command(BASE, folder), f"actor_rollout_ref.model.path={path}"))

    monkeypatch.setattr(model, "_read", lambda config: read(config.actor_rollout_ref.model.path))


def command(name, folder):
    return filled(LEGITIMATE[name]["command"], folder)


def filled(text, folder):
    ours = Path(preflight.__file__).parents[1] / "conf" / "code_interpreter.yaml"
    places = {
        "+cleaner": LINES,
        "+trainer": TRAINER,
        "$MODEL": folder / "model",
        "$UNTRAINED": folder / "untrained",
        "$DATA": folder / "data",
        "$TOOLS": ADOPTED / "tools.yaml",
        "$REWARD": ADOPTED / "reward.py",
        "$OURS": ours,
        "$HERE": COMMANDS,
    }
    for mark, value in places.items():
        text = text.replace(mark, str(value))
    return text


def composed(text, *more):
    words = [*shlex.split(text), *more]
    keys = [word.partition("=")[0] for word in words]
    if any(key == "hydra.searchpath" or "." not in key for key in keys):
        # A group of configurations, which only Hydra itself can put in.
        return compose_once("ppo_trainer", *words, folder=VERL)
    return overridden(compose_once("ppo_trainer", folder=VERL), words)


def found(config):
    """As the trainer finds it."""
    enable(config)
    return checks.findings(config, {**checks.CONFIGURATION, **checks.TRAINER_NODE})


@pytest.mark.parametrize("name", LEGITIMATE)
def test_a_legitimate_command_passes(name, folder):
    config = composed(command(name, folder))
    if skip := LEGITIMATE[name].get("skip"):
        with open_dict(config):
            config.trainer.skip_checks = skip
    findings = found(config)
    assert [str(finding) for finding in findings if finding.level is Level.ERROR] == []
    assert not any("could not be made" in finding.text for finding in findings), findings


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_command_is_refused_or_warned_about(name, folder):
    case = BROKEN[name]
    words = dict(word.partition("=")[::2] for word in shlex.split(command(BASE, folder)))
    added = dict(word.partition("=")[::2] for word in shlex.split(filled(case["add"], folder)))
    config = composed(" ".join(shlex.quote(f"{key}={value}") for key, value in (words | added).items()))
    findings = found(config)
    assert (case["check"], case["level"]) in {(finding.check, str(finding.level)) for finding in findings}, findings
    refused = {finding.check for finding in findings if finding.level is Level.ERROR}
    assert refused == ({case["check"]} if case["level"] == "error" else set()), findings
