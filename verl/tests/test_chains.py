"""Tasks of dependent parts, the library that changed under the policy, and the cold starts on them."""

import ast
import json
import random
import re
import sys
from pathlib import Path

import pytest
from composing import composed, overridden
from live_judge import live_judge
from verl.tools.schemas import OpenAIFunctionToolSchema
from verl.tools.tool_registry import load_all_tools

from cleaner_lab.experiments.grid_file import read_grid
from cleaner_lab.experiments.results import of_step
from cleaner_lab.nano import chain_data, chain_traces, chains, numkit_api, rates
from cleaner_lab.nano import cold_start as cold
from cleaner_lab.nano.chain_reward import compute_score, wrong_answer_score
from cleaner_lab.nano.chain_traces import Interpreter, Shares
from cleaner_lab.nano.module_interpreter import ModuleInterpreter
from cleaner_lab.nano.numkit_api import DRIFTED, NEW, OLD, Change
from cleaner_lab.nano.solutions import solve
from cleaner_lab.nano.tasks import TOOL
from cleaner_lab.nano.tokenizer import train_tokenizer
from verl_cleaner.config import rollback_config
from verl_cleaner.training.credit.penalty import failed_call_penalty

CHAINS = chains.make_chains("cold_start", 60, seed=3, calls=3)
PARTS = [part for chain in CHAINS for part in chain.parts]
EXPERIMENTS = Path(__file__).parents[2] / "recipe/cleaner/experiments"
TINY = dict(
    hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, head_dim=8, vocab_size=300, traces=40, steps=2,
    tokens=256, train_size=8, val_size=20, calls=2,
)  # fmt: skip


def test_each_part_needs_the_result_before():
    for chain in CHAINS:
        shown = re.split(r" ?\d\. (?=[A-Za-z])", chain.question)[1:]
        assert len(shown) == 3
        assert "r1" in shown[1]
        assert "r2" in shown[2]
        filled = [
            shown[0],
            shown[1].replace("r1", chain.parts[0].answer),
            shown[2].replace("r2", chain.parts[1].answer),
        ]
        assert filled == [part.question for part in chain.parts]
        assert chain.parts[-1].answer == chain.answer
    assert {part.family for part in PARTS} == set(chains.FAMILIES)


def test_splits_are_disjoint_and_repeatable():
    settings = cold.Settings(**{**TINY, "habit": 0.9})
    rows, traces = chain_data.make(settings)
    assert chain_data.make(settings)[0] == rows
    questions = [row["prompt"][0]["content"] for split in rows.values() for row in split]
    questions += {trace.messages[0]["content"] for trace in traces}
    assert len(set(questions)) == len(questions)
    kinds = [row["data_source"].removeprefix("chain/") for row in rows["val"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {chains.TRAINED: 20, chains.LONGER: 3, chains.UNTOUCHED: 3}
    lengths = {row["data_source"]: row["extra_info"]["calls"] for row in rows["val"]}
    assert lengths == {"chain/trained": 2, "chain/longer": 3, "chain/untouched": 2}


@pytest.mark.parametrize("api", [OLD, NEW, *(numkit_api.random_api(random.Random(seed)) for seed in range(12))])
def test_a_version_s_own_calls_are_right_and_old_calls_fail_where_it_changed(api):
    interpreter = Interpreter(api)
    for part in PARTS:
        assert interpreter.run(numkit_api.call(part, api)) == (part.answer, True)
        response, ok = interpreter.run(numkit_api.call(part, OLD))
        assert ok is (api[part.family].change is Change.SAME), response


def test_what_the_errors_of_the_new_version_tell():
    interpreter = Interpreter(NEW)
    tells = {
        "gcd": "AttributeError at line 2: numkit.gcd is now numkit.common_divisor",
        "chain_sum": "AttributeError at line 2: module 'numkit' has no attribute 'total'. Did you mean: 'totals'?",
        "count_bits": "ValueError at line 2: bits() takes hexadecimal text, such as hex(5)",
        "products": "TypeError at line 2: product() takes 0 positional arguments but 2 were given",
        "base_conversion": "ValueError at line 2: invalid arguments",
    }
    assert set(tells) == set(DRIFTED)
    for part in PARTS:
        if part.family in tells:
            assert interpreter.run(numkit_api.call(part, OLD)) == (tells[part.family], False)


def test_the_library_in_the_repository_is_the_new_version():
    file = Path(numkit_api.__file__).with_name("numkit.py")
    assert ast.dump(ast.parse(file.read_text())) == ast.dump(ast.parse(numkit_api.source(NEW)))
    others = [numkit_api.random_api(random.Random(seed)) for seed in range(200)]
    names = {function.name for api in others for function in api.values() if function.change is not Change.SAME}
    assert not names & {NEW["gcd"].name, NEW["chain_sum"].name}


def test_programs_that_do_not_end():
    limited = Interpreter(NEW, seconds=0.05)
    assert limited.run("while True: pass") == ("TimeoutError at line 1: stopped after 0.05 s", False)
    assert limited.run("print(1)") == ("1", True)
    for arguments in ("1, 100", "0, 100", "-3, 100"):
        response, ok = Interpreter(NEW).run(f"import numkit\nprint(numkit.convert({arguments}))")
        assert (response, ok) == ("ValueError at line 2: base must be at least 2", False)
    assert Interpreter(NEW).run("import numkit\nprint(numkit.convert(7, -100))") == ("", True)


def test_no_module_stays_importable():
    Interpreter(NEW).run("import numkit\nprint(numkit.lcm(2, 3))")
    assert "numkit" not in sys.modules


@pytest.mark.parametrize("api", [None, NEW], ids=["python", "numkit"])
def test_traces_show_real_responses(api):
    rng, interpreter = random.Random(0), Interpreter(api)
    shares = Shares(0.3, 0.1, habit=0.9, context=0.4)
    made = [chain_traces.make_trace(chain, rng, interpreter, api, shares) for chain in CHAINS]
    assert {trace.correct for trace in made} == {True, False}
    assert any(set(trace.mistakes) == {"none"} for trace in made)
    for chain, trace in zip(CHAINS, made, strict=True):
        calls = [m["content"] for m in trace.messages if "<tool_call>" in m["content"]]
        responses = [m["content"] for m in trace.messages if m["role"] == "tool"]
        assert [interpreter.respond(call)[0] for call in calls] == responses
        assert (trace.messages[-1]["content"] == f"\\boxed{{{chain.answer}}}") is trace.correct
    untrained = [m for trace in made for m in trace.messages if m.get("trained") is False]
    assert bool(untrained) is (api is not None)
    assert all(numkit_api.MODULE in message["content"] for message in untrained)


def test_shares_of_habitual_calls():
    rng, interpreter = random.Random(0), Interpreter(NEW)
    shares = Shares(0, 0, habit=0.7, context=0.4)
    made = [chain_traces.make_trace(chain, rng, interpreter, NEW, shares) for chain in CHAINS * 5]
    drifted = [part.family in DRIFTED for chain in CHAINS * 5 for part in chain.parts]
    habits = sum(trace.mistakes.count("habit") for trace in made)
    # A trace that stops early makes fewer.
    assert habits / sum(drifted) == pytest.approx(0.6 * 0.7, abs=0.06)


def test_nothing_is_learned_from_calls_that_stand_in_the_context():
    rng, interpreter = random.Random(0), Interpreter(NEW)
    trace = chain_traces.make_trace(CHAINS[0], rng, interpreter, NEW, Shares(0, 0, habit=1.0, context=1.0))
    tokenizer = train_tokenizer([text for text, _ in cold.segments(trace)], vocab_size=300)
    ids, mask = cold.tokenize(trace, tokenizer)
    turns = [m for m in trace.messages if m["role"] == "assistant"]
    trained = "".join(f"{m['content']}<|im_end|>" for m in turns if m.get("trained", True))
    assert any(m.get("trained") is False for m in turns)
    assert tokenizer.decode([token for token, own in zip(ids, mask, strict=True) if own]) == trained


def test_reward_of_a_chain():
    row = chains.to_row(CHAINS[0], split="train", index=0)
    right = f"\\boxed{{{CHAINS[0].answer}}}"
    truth = row["reward_model"]["ground_truth"]
    for text, acc in (
        (right, 1.0),
        ("\\boxed{-7}", 0.0),
        ("nothing", 0.0),
        (f"{right}<tool_response>1</tool_response>", 0.0),
    ):
        assert compute_score(row["data_source"], text, truth, row["extra_info"])["acc"] == acc, text
    assert wrong_answer_score(row["data_source"]) == compute_score(row["data_source"], "no", truth)["score"]


async def test_the_judge_answers_as_the_traces_do():
    """Text and line numbers, though the library travels before the program."""
    programs = [numkit_api.call(part, api) for part in PARTS[:24] for api in (OLD, NEW)]
    programs += [
        "x = 1\nimport numkit\nprint(numkit.totalz(x))",
        "import numkit\n\nprint(numkit.lcm(4, 6)",
        "import numkit\nnumkit.lcm('a')",
        "print(1)\nprint(sys)",
        "print(_module)",
        "import math\nmath.lcm(4, 6)",
    ]
    schema = OpenAIFunctionToolSchema.model_validate(TOOL)
    expected = Interpreter(NEW)
    with live_judge(MAX_WORKERS=2, MAX_EXECUTION_TIME=20) as url:
        tool = ModuleInterpreter({"url": url, "modules": ["cleaner_lab.nano.numkit"]}, schema)
        answers = [await tool.execute("", {"code": code}) for code in programs]
    assert not [data["raise"] for _, _, data in answers if "raise" in data]
    texts = [response.text for response, _, _ in answers]
    # The tool echoes a last expression.
    assert texts.pop() == "12"
    for code, text in zip(programs, texts, strict=False):
        response, ok = expected.run(code)
        assert text == response, code
        assert ok is (answers[programs.index(code)][2]["outcome"].kind is None)


def test_a_module_without_source_is_refused():
    schema = OpenAIFunctionToolSchema.model_validate(TOOL)
    for name in ("math", "cleaner_lab.nano.nothing"):
        with pytest.raises(ValueError, match=f"modules: '{name}' has no Python source"):
            ModuleInterpreter({"url": "http://127.0.0.1:1", "modules": [name]}, schema)


@pytest.mark.parametrize(
    "kind", [{}, {"habit": 0.9}, {"habit": 0.98, "versions": 5}], ids=["python", "known", "unknown"]
)
def test_cold_start_and_its_rates(tmp_path, capsys, monkeypatch, kind):
    out = tmp_path / "start"
    assert cold.cold_start(out, cold.Settings(**TINY, **kind))
    assert json.loads((out / cold.MARKER).read_text())["settings"]["calls"] == 2
    capsys.readouterr()
    monkeypatch.setattr(rates, "MAX_NEW_TOKENS", 8)
    monkeypatch.setattr(sys, "argv", ["rates", str(out), "--chains", "4"])
    rates.main()
    shown = capsys.readouterr().out
    for name in ("accuracy, 3 turns", "accuracy, 6 turns", "right answer after right calls that were given"):
        assert re.search(rf"^ +0\.0 %  {name}$", shown, re.MULTILINE), shown


def test_rates_of_a_policy_that_follows_its_habit(monkeypatch):
    """A scripted policy: calls of the old version, after an error the new version's, the right answer at the end."""

    class Scripted:
        def turns(self, conversations):
            return [self.turn(sampled) for sampled in conversations]

        def turn(self, sampled):
            responses = [m["content"] for m in sampled.messages if m["role"] == "tool"]
            done = sum("at line" not in response for response in responses)
            if done == len(sampled.chain.parts):
                return f"\\boxed{{{responses[-1]}}}"
            failed = bool(responses) and "at line" in responses[-1]
            api = NEW if failed else OLD
            return f"Go.\n{chain_traces.call_text(numkit_api.call(sampled.chain.parts[done], api))}"

    found = rates.rates(Scripted(), CHAINS, NEW, calls=3)
    drifted = sum(part.family in DRIFTED for part in PARTS) / len(PARTS)
    clean = sum(not any(part.family in DRIFTED for part in chain.parts) for chain in CHAINS) / len(CHAINS)
    assert found["accuracy, 7 turns"] == 1
    assert found["accuracy, 4 turns"] == pytest.approx(clean)
    assert found["first calls that fail"] == pytest.approx(drifted)
    assert found["first calls that fail, gcd"] == 1
    assert found["calls after an error that are right"] == 1
    assert found["right answers after right calls with errors"] == 1
    assert found["right call after right calls that were given"] == 1
    assert found["right answer after right calls that were given"] == 1
    assert all(solve(part) for part in PARTS)


@pytest.mark.parametrize(
    ("name", "calls", "turns"),
    [
        *(("chain", 3, 7), ("chain_six_gpu", 6, 10)),
        *(("drift", 3, 7), ("drift_one", 1, 2), ("drift_gpu", 3, 7), ("drift_six_gpu", 6, 10)),
    ],
)
def test_the_grids_of_chains_compose(name, calls, turns, monkeypatch):
    """Every run of a grid, with the tool and the reward that it names."""
    monkeypatch.chdir(EXPERIMENTS.parents[2])
    grid = read_grid(EXPERIMENTS / f"{name}.yaml")
    settings = cold.Settings(**grid.cold_start["nano"])
    assert (settings.calls, settings.habit > 0) == (calls, name.startswith("drift"))
    assert [method.name for method in grid.methods] == [
        "baseline",
        "penalty",
        "cleaner",
        "half",
        "leaves",
        "leaves_half",
        "leaves_half_split",
    ]
    configs = {run.method: overridden(composed(grid.config_name), run.overrides) for run in grid.runs(seeds=[0])}
    for config in configs.values():
        multi_turn = config.actor_rollout_ref.rollout.multi_turn
        assert multi_turn.max_assistant_turns == turns
        assert config.reward.custom_reward_function.path == "pkg://cleaner_lab.nano.chain_reward"
        if name.startswith("drift"):
            (tool,) = load_all_tools(tool_config_path=multi_turn.tool_config_path, function_tool_path=None)
            assert isinstance(tool, ModuleInterpreter)
            assert "common_divisor" in tool.preamble
    leaves = rollback_config(configs["leaves"].actor_rollout_ref.rollout.multi_turn)
    assert (leaves.rollback_failed_calls, leaves.rollback_at_validation) == ("leaf", False)
    half = rollback_config(configs["half"].actor_rollout_ref.rollout.multi_turn)
    assert (half.rollback_probability, half.rollback_stratified) == (0.5, True)
    assert failed_call_penalty(configs["penalty"].algorithm) == 1
    assert not rollback_config(configs["baseline"].actor_rollout_ref.rollout.multi_turn).enable_tool_rollback


def test_what_only_the_held_out_data_have_is_apart():
    """Other kinds of chains are not part of the held-out accuracy, and have a name of their own in results."""
    logged = {"val-core/chain/trained/acc/mean@1": 0.5, "val-core/chain/longer/acc/mean@1": 0.25}
    logged["val-core/chain/untouched/acc/mean@1"] = 1.0
    found = of_step(logged)
    assert found["held_out/accuracy"] == 0.5
    assert (found["held_out/longer_accuracy"], found["held_out/untouched_accuracy"]) == (0.25, 1.0)
