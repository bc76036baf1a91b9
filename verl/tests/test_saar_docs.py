"""docs/saar.md says what the code does."""

import importlib.util
import json
import re
from dataclasses import fields
from pathlib import Path

from verl_cleaner import replay
from verl_cleaner.config import MultiTurnConfig, rollback_config
from verl_cleaner.formats import FORMATS
from verl_cleaner.records.rollbacks import read
from verl_cleaner.saar.config import RollbackConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "saar.md").read_text(encoding="utf-8")


def test_every_parameter_is_documented_with_its_default():
    documented = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", TEXT, re.MULTILINE))
    defaults = {field.name: "null" if field.default is None else str(field.default) for field in fields(RollbackConfig)}
    assert documented == defaults


def test_verls_configuration_has_the_same_parameters_and_defaults():
    assert rollback_config(MultiTurnConfig()) == RollbackConfig()


def test_the_documented_formats_are_ours():
    sentence = re.search(r"`multi_turn.format` may be(.*?)\. In these", TEXT, re.DOTALL)[1]
    assert re.findall(r"`([\w-]+)`", sentence) == list(FORMATS)


def test_the_picture_is_drawn_from_the_record_and_the_record_replays():
    spec = importlib.util.spec_from_file_location("draw_repair", DOCS / "draw_repair.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    record = json.loads((DOCS / "repair.jsonl").read_text(encoding="utf-8"))
    assert (DOCS / "repair.svg").read_text(encoding="utf-8") == module.draw(record)
    assert replay.decision_problem(read(DOCS / "repair.jsonl")[0]) is None


def test_the_benchmark_runs(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("loop_share", DOCS.parent / "verl" / "benchmarks" / "loop_share.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["loop_share.py", "--trajectories", "2", "--tokens", "300", "--turn", "500"])
    module.main()
    shown = capsys.readouterr().out
    assert [float(ms) > 0 for ms in re.findall(r"([\d.]+) ms a turn", shown)] == [True] * 3
    ours, prefixes = map(float, re.search(r"tokens: ([\d.]+) ms; decoding every prefix: (\d+) ms", shown).groups())
    assert ours < prefixes


def test_the_documented_example_of_the_command_is_understood(tmp_path, capsys):
    command = re.search(r"python -m verl_cleaner.replay \S+ (.*)", TEXT)[1].split()
    assert replay.main([str(DOCS / "repair.jsonl"), *command]) == 0
    assert "math.gcd(954, 142)" in capsys.readouterr().out
