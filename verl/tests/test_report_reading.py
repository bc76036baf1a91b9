"""Runs, dumps and conversations as the report reads them, broken ones included."""

import base64
import gzip
import json
import math
import re
import time
from dataclasses import replace
from random import Random

import pytest
import torch
from loop_harness import ScriptedServer, call, make_config, rollback, run_loop
from omegaconf import open_dict
from real_tokenizers import real_tokenizer
from report_data import HOSTILE, write_run
from tensordict import NonTensorStack, TensorDict
from tiny import tiny_tokenizer

from verl_cleaner.config import rollback_config
from verl_cleaner.records import rollbacks as rollback_dump
from verl_cleaner.records import run_info
from verl_cleaner.records import trajectories as trajectory_dump
from verl_cleaner.records.token_text import TokenTexts
from verl_cleaner.report import conversation, sampling
from verl_cleaner.report.conversation import Kind
from verl_cleaner.report.diff import diff
from verl_cleaner.report.folder import Split, find_runs
from verl_cleaner.report.page import render
from verl_cleaner.report.run import flat, names, read_run
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop
from verl_cleaner.training.batch import token_columns, unbound


def read(path, limit=2000):
    (folder,) = find_runs(path)
    return read_run(folder, name="run", limit=limit)


def shape(blocks):
    return [(str(block.kind), block.turn) for block in blocks]


async def dumped(folder, monkeypatch, script, **values):
    """The trajectory that the loop makes of `script`, in all three dumps, and VeRL's text of it."""
    config = make_config(*rollback(**values))
    server = ScriptedServer(script)
    output, _ = await run_loop(ToolAgentLoop, server, config)
    key = "a-b_3_0"
    batch = {"prompts": output.prompt_ids, "responses": output.response_ids, "response_mask": output.response_mask}
    data = {name: [torch.tensor(ids)] for name, ids in batch.items()}
    monkeypatch.setattr("verl_cleaner.training.batch.tq.kv_batch_get", lambda **_: data)
    tokens = token_columns([key], "train", server.tokenizer)
    table = [trajectory_dump.of_output(key, output.extra_fields, step=7, **tokens[key])]
    settings = rollback_config(config.actor_rollout_ref.rollout.multi_turn)
    retries = rollback_dump.rows([(key, output.extra_fields[RECORD_FIELD])], step=7, config=settings)
    trajectory_dump.write(folder / "rollouts" / "trajectories" / "7.parquet", table)
    rollback_dump.write(folder / "rollouts" / "rollbacks" / "7.parquet", retries)
    asked, text = (server.tokenizer.decode(ids, skip_special_tokens=True) for ids in list(batch.values())[:2])
    row = {"input": asked, "output": text, "gts": "42", "score": 1.0, "step": 7, "uid": key}
    (folder / "rollouts" / "7.jsonl").write_text(json.dumps(row) + "\n")
    return text


async def test_an_overwritten_call_that_still_fails_is_not_repaired(tmp_path, monkeypatch):
    """The last retry took the place of the failed call, and failed as well."""
    script = [f"A. {call('NameError 1')}", f"A. {call('NameError 2')}", "The answer."]
    await dumped(tmp_path, monkeypatch, script, max_tool_retries=1)
    (found,) = read(tmp_path).trajectories
    assert [retry["result"] for retry in found.retries] == ["overwritten"]
    assert found.kinds == ["NameError", "NameError"]
    assert not found.repaired


async def test_a_real_trajectory_from_the_loop_to_the_report(tmp_path, monkeypatch):
    """A repaired call and an answer; tokens, mask and spans as the batch has them."""
    code = "print('é🎉')"
    script = [f"A. {call('NameError ' + code)}", f"A. {call('ok ' + code)}", "The answer."]
    text = await dumped(tmp_path, monkeypatch, script)
    (found,) = read(tmp_path).trajectories
    assert (found.step, found.uid, found.rollout, found.score, found.exact) == (7, "a-b", 3, 1.0, True)
    assert found.repaired
    assert found.kinds == ["NameError"]
    assert shape(found.blocks) == [("text", 1), ("call", 1), ("response", 1), ("text", 2)]
    assert found.blocks[1].code == f"ok {code}"
    assert found.blocks[3].text == "The answer."
    marked = [text for text, over in zip(found.tokens.texts, found.tokens.overwritten, strict=True) if over]
    assert "".join(marked).startswith("<tool_call>")
    assert f"ok {code[:7]}" in "".join(marked)
    # VeRL's text alone says the same of the turns.
    assert shape(conversation.of_text(text)) == shape(found.blocks)
    assert [block.code for block in conversation.of_text(text)] == [block.code for block in found.blocks]


@pytest.mark.parametrize("exact", [True, False])
async def test_a_retry_that_follows_its_failed_turn_belongs_to_it(tmp_path, monkeypatch, exact):
    script = [call("NameError a"), call("NameError b"), call("ok c"), call("ok d"), "The answer."]
    await dumped(tmp_path, monkeypatch, script, rollback_mode="keep")
    if not exact:
        (tmp_path / "rollouts" / "trajectories" / "7.parquet").unlink()
    (found,) = read(tmp_path).trajectories
    assert found.exact == exact
    assert [(b.code, b.turn) for b in found.blocks if b.kind is Kind.CALL] == [
        ("NameError a", 1),
        ("NameError b", 1),
        ("ok c", 1),
        ("ok d", 2),
    ]
    assert {retry["turn"] for retry in found.retries} == {1}


@pytest.mark.parametrize("name", ["tiny", "qwen3", "llama3_1"])
def test_the_tokens_texts_join_to_the_text(name):
    tokenizer = tiny_tokenizer() if name == "tiny" else real_tokenizer(name)
    text = "print('héllo 🎉 \u202e')\n<tool_call> x</tool_call> 東京 "
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    texts = TokenTexts(tokenizer)(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert "".join(TokenTexts(tokenizer)(ids[:8])) == tokenizer.decode(ids[:8], clean_up_tokenization_spaces=False)


def test_rows_of_every_kind_of_column():
    rows = [torch.ones(2), torch.zeros(3)]
    batch = TensorDict(
        {
            "jagged": torch.nested.as_nested_tensor(rows, layout=torch.jagged),
            "strided": torch.nested.as_nested_tensor(rows),
            "numbers": torch.tensor([1, 2]),
            "objects": NonTensorStack({"x": 1}, {"y": 2}),
        },
        batch_size=[2],
    )
    for name in ("jagged", "strided"):
        assert [row.tolist() for row in unbound(batch[name])] == [row.tolist() for row in rows]
    assert [int(number) for number in unbound(batch["numbers"])] == [1, 2]
    assert [getattr(value, "data", value) for value in unbound(batch["objects"])] == [{"x": 1}, {"y": 2}]


def test_columns_of_a_large_batch_are_unpacked_once(monkeypatch):
    """2,048 rows; VeRL's batch has jagged tensors, tests above have lists."""
    rows = [torch.full((length % 7 + 1,), length % 60) for length in range(2048)]
    names = ("prompts", "responses", "response_mask", *trajectory_dump.SCORE_COLUMNS)
    data = dict.fromkeys(names, torch.nested.as_nested_tensor(rows, layout=torch.jagged))
    monkeypatch.setattr("verl_cleaner.training.batch.tq.kv_batch_get", lambda **_: data)
    start = time.process_time()
    found = token_columns([str(i) for i in range(2048)], "train", tiny_tokenizer())
    assert time.process_time() - start < 5
    assert [row["mask"] for row in found.values()] == [row.tolist() for row in rows]


def test_a_run_with_everything(tmp_path):
    run = read(write_run(tmp_path / "run"))
    assert not run.warnings.texts
    assert len(run.trajectories) == run.total == 48
    assert sorted(run.steps) == [0, 1, 2, 3]
    assert run.config["trainer.wandb_proxy"] == "(hidden)"
    assert run.config["rollback"] == "True"
    assert run.versions == {"verl": "0.9.1", "torch": "2.11.0"}
    assert sum(t.repaired for t in run.trajectories) == 24
    assert all(t.exact and t.tokens.old_log_probs and not t.tokens.rollout_log_probs for t in run.trajectories)


def test_verls_plain_dumps_alone(tmp_path):
    """Without our files, without metrics, without uids, and a validation beside."""
    write_run(tmp_path / "run", ours=False)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "val_generations").mkdir()
    for file in (tmp_path / "run" / "rollouts").glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            del line["uid"]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = {"input": "user\nx\nassistant\n", "output": "no tool", "gts": None, "score": 0.0, "step": 5}
    (tmp_path / "run" / "val_generations" / "5.jsonl").write_text(json.dumps(row) + "\n")
    run = read(tmp_path / "run")
    assert len(run.trajectories) == 49
    train = [t for t in run.trajectories if t.split is Split.TRAIN]
    assert shape(train[0].blocks) == [("text", 1), ("call", 1), ("response", 1), ("text", 2)]
    assert {t.rollout for t in train} == {0, 1, 2, 3}
    assert not train[0].exact
    assert any("no metrics.jsonl" in text for text in run.warnings.texts)


def test_a_broken_run_is_read_as_far_as_it_goes_and_says_so(tmp_path):
    folder = write_run(tmp_path / "run")
    rollouts = folder / "rollouts"
    with (rollouts / "2.jsonl").open("ab") as file:
        file.write(b'\xff\xfe{"input": "half\n[1]\n{"other": 1}\n{"output": "cut')
    for broken in (rollouts / "trajectories" / "1.parquet", rollouts / "rollbacks" / "3.parquet"):
        broken.write_bytes(broken.read_bytes()[:100])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 9, "data": {"critic/score/acc": NaN, "critic/score/mean": 1, "x": "text"}}\n{"step": 10, "da'
        )
    run = read(folder)
    assert len(run.trajectories) == 48
    assert run.steps[9] == {"critic/score/mean": 1.0}
    text = "\n".join(run.warnings.texts)
    assert "rollouts/2.jsonl: 4 lines left out (lines 17, 18, 19, 20)" in text
    assert "trajectories/1.parquet: left out: ValueError: " in text
    assert "rollbacks/3.parquet: left out: ValueError: " in text
    assert "metrics.jsonl: 1 line left out (line 6)" in text
    (rollouts / "run.json").write_text('{"config": ')
    assert any("configuration cannot be read" in text for text in read(folder).warnings.texts)


def test_values_of_another_type_are_a_warning(tmp_path):
    folder = write_run(tmp_path / "run")
    retries = folder / "rollouts" / "rollbacks" / "1.parquet"
    rollback_dump.write(retries, [rollback_dump.read(retries)[0] | {"kinds": None}])
    table = trajectory_dump.read(folder / "rollouts" / "trajectories" / "2.parquet")
    table[0] = replace(table[0], attempts=[{"turn": 1, "kinds": None, "seconds": [0.1]}])
    table[1] = replace(table[1], advantages=[None] * len(table[1].advantages))
    trajectory_dump.write(folder / "rollouts" / "trajectories" / "2.parquet", table)
    run = read(folder)
    assert len(run.trajectories) == 48
    first, second = run.warnings.texts
    assert "rollbacks/1.parquet: left out: ValueError" in first
    assert "row 1 holds kinds=None, expected list<string>" in first
    assert "rollouts/trajectories/2.parquet: rows left out that hold values of another type" in second
    render([run])


def test_no_number_is_no_json(tmp_path):
    """NaN and infinities from the reward function are no reason to lose the page."""
    folder = write_run(tmp_path / "run", steps=1)
    table = trajectory_dump.read(folder / "rollouts" / "trajectories" / "1.parquet")
    table[:2] = [replace(table[0], acc=math.nan), replace(table[1], acc=math.inf)]
    trajectory_dump.write(folder / "rollouts" / "trajectories" / "1.parquet", table)
    run = read(folder)
    run.trajectories[0] = replace(run.trajectories[0], score=math.nan)
    data = re.search(r'id="data">(.*?)</script>', render([run]), re.DOTALL)[1]
    index = json.loads(data, parse_constant=pytest.fail)["index"]
    assert index["acc"].count(None) == 2
    assert index["score"][0] is None


def test_metrics_count_for_the_size_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr("verl_cleaner.report.page.MAX_BYTES", 30_000)
    random = Random(0)
    run = read(write_run(tmp_path / "run", words=300))
    for step in range(400):
        run.steps[step] = {f"metric/{i}": random.random() for i in range(50)}
    chunks = re.findall(r'id="chunk-\d+">(.*?)</script>', render([run]), re.DOTALL)
    assert 10_000 < sum(map(len, chunks)) <= 30_000
    series = json.loads(gzip.decompress(base64.b64decode(chunks[-1])))["metric/0"][0]
    assert (series[0][0], series[-1][0]) == (0, 399)


def test_what_holds_no_run_is_named(tmp_path):
    for path, message in ((tmp_path / "nowhere", "is no folder"), (tmp_path, "holds no metrics.jsonl")):
        with pytest.raises(ValueError, match=message):
            find_runs(path)


def test_the_folders_of_a_comparison_are_its_runs(tmp_path):
    for name in ("baseline", "cleaner"):
        write_run(tmp_path / name)
    folders = [run.path for run in find_runs(tmp_path)]
    assert names(folders) == ["baseline", "cleaner"]
    assert names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    assert names([tmp_path, tmp_path]) == [f"{tmp_path.name} 1", f"{tmp_path.name} 2"]


def test_samples_are_whole_groups_over_all_steps_and_the_same_in_every_run(tmp_path):
    one, other = (read(write_run(tmp_path / str(seed), seed=seed, steps=5), limit=30) for seed in (0, 1))
    assert len(one.trajectories) == 20
    assert one.total == 80
    assert {t.step for t in one.trajectories} == {1, 2, 3, 4, 5}
    for run in (one, other):
        assert [(t.step, t.uid, t.rollout) for t in run.trajectories] == [
            (t.step, t.uid, t.rollout) for t in one.trajectories
        ]
    assert read(tmp_path / "0", limit=30).trajectories == one.trajectories


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [([10, 10], 10, [5, 5]), ([2, 10, 10], 16, [2, 7, 7]), ([3, 0], 9, [3, 0]), ([5, 5, 5], 2, [1, 1, 0])],
)
def test_shares(counts, limit, expected):
    assert sampling.shares(counts, limit) == expected


def test_steps_beyond_the_limit_are_not_read_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_FILES", 2)
    run = read(write_run(tmp_path / "run", steps=4))
    assert {t.step for t in run.trajectories} == {1, 4}
    assert run.warnings.texts == ["rollouts: 2 of 4 steps are read, evenly chosen"]


def test_many_steps_are_thinned_evenly(tmp_path):
    file = tmp_path / "1.jsonl"
    file.write_text("{}")
    steps = sampling.pick_steps(dict.fromkeys(range(1000), file))
    assert (len(steps), steps[0], steps[-1]) == (sampling.MAX_FILES, 0, 999)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm</think>\nyes", [("thinking", "", "hm"), ("text", "", "yes")]),
        (call("1 + 1"), [("call", "1 + 1", None)]),
        ('<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "pri', [("call", "pri", None)]),
        (
            "<tool_call><function=run><parameter=code>\nx = 1\n</parameter></function></tool_call>",
            [("call", "x = 1", None)],
        ),
        ('{"name": "run", "parameters": {"code": "y"}}', [("call", "y", None)]),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.run "
            '<|constrain|>json<|message|>{"code": "z"}<|call|>',
            [("thinking", "", "hm"), ("call", "z", None)],
        ),
        ("<|channel|>final<|message|>It is 4.<|return|>", [("text", "", "It is 4.")]),
        ("no call", [("text", "", "no call")]),
        ("", []),
    ],
)  # fmt: skip
def test_assistant_turns(text, expected):
    found = conversation.of_tokens([text], [1])
    if "<|" not in text:
        assert conversation.of_text(text) == found
    assert [(b.kind, b.code) for b in found] == [(Kind(kind), code) for kind, code, _ in expected]
    assert [b.text for b, (_, _, wanted) in zip(found, expected, strict=True) if wanted] == [
        w for *_, w in expected if w
    ]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_keeps_its_place(text):
    response = f"A.\n{call(text)}\nuser\n<tool_response>\n{text}\n</tool_response>\nassistant\nB."
    found = conversation.of_text(response)
    assert shape(found) == [("text", 1), ("call", 1), ("response", 1), ("text", 2)]
    assert found[1].code == text
    assert found[2].text == text


@pytest.mark.parametrize(
    "unit",
    [
        "\nuser\n<tool_response>",
        "<tool_response>",
        "\ntool\n",
        "\nuser\n<tool_response></tool_response>",
        "<tool_call><parameter=",
        "<parameter=a>",
        "<function=",
        "<tool_call><parameter=a></parameter>",
        "\nuser\n<tool_response>x</tool_response>\nassistant\n",
    ],
)
def test_a_megabyte_of_hostile_text_is_read_in_linear_time(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    for whole in (text, f"<tool_call>{text}", f"\nuser\n<tool_response>{text}</tool_response>\nassistant\n{text}"):
        blocks = conversation.of_text(whole)
    assert blocks
    assert time.process_time() - start < 6  # three times a megabyte or two


def test_what_is_not_closed_is_the_policys_text():
    unclosed = "\nuser\n<tool_response>a</tool_response>\nassistant\nB.\ntool\n<tool_response>c\nassistant\nD."
    found = conversation.of_text(f"A.{unclosed}\nuser\n<tool_response>e")
    texts = [(str(block.kind), block.text) for block in found]
    assert texts[:4] == [("text", "A."), ("response", "a"), ("text", "B."), ("response", "<tool_response>c")]
    assert texts[4:] == [("text", "D.\nuser\n<tool_response>e")]


def test_prompts_with_and_without_special_tokens():
    marked = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nuser\nhi<|im_end|>\n<|im_start|>assistant\n"
    first = conversation.of_prompt(marked)[0]
    assert (first.kind, first.text) == (Kind.SYSTEM, "be brief")
    plain = conversation.of_prompt("system\nbe brief\nuser\nhi\nassistant\n")
    assert [(b.kind, b.text) for b in plain] == [(Kind.SYSTEM, "be brief"), (Kind.USER, "hi")]


def test_diff_marks_what_changed():
    lines = diff("import math\nprint(math.gdc(1, 2))\nx", "import math\nprint(math.gcd(1, 2))\ny = 1\nz")
    assert [line.sign for line in lines] == [" ", "-", "-", "+", "+", "+"]
    (minus, plus) = diff("print(math.gdc(1))", "print(math.gcd(1))")
    assert [text for changed, text in minus.parts if changed] == ["c"]
    assert "".join(text for _, text in plus.parts) == "print(math.gcd(1))"
    assert [line.sign for line in diff("\n".join("ab" * 1500), "x")].count("-") == 3000


@pytest.mark.parametrize("line", ["ab" * 190, "".join(map(chr, range(0x4E00, 0x4E00 + 380)))])
def test_a_diff_of_many_changed_lines_takes_its_time_from_a_few(line):
    old, new = ([f"{line[shift:]}{line[:shift]}{i}" for i in range(980)] for shift in (0, 1))
    start = time.process_time()
    lines = diff("\n".join(old), "\n".join(new))
    few = diff("\n".join(old[:50]), "\n".join(new[:50]))
    assert time.process_time() - start < 3
    assert ["".join(text for _, text in found.parts) for found in lines] == old + new
    assert any(not changed for changed, _ in few[0].parts)


def test_configuration_is_saved_resolved_and_without_secrets(tmp_path):
    config = make_config()
    with open_dict(config):
        config.trainer.headers = [{"Authorization": "hunter2"}, ["redis://me:hunter2@host"]]
        config.trainer.HF_TOKEN = "hunter2"
    run_info.write(tmp_path, config)
    assert "hunter2" not in (tmp_path / run_info.FILE).read_text()
    info = run_info.read(tmp_path / run_info.FILE)
    assert info["config"]["trainer"]["dump_tokens"] is False
    assert info["versions"]["verl"] == "0.9.1"
    secrets = ("authorization", "PASSWD", "auth_token", "private_key", "bearer", "X-Api-Key", "credentials")
    assert set(flat({"a": dict.fromkeys(secrets, "x")}).values()) == {"(hidden)"}
    assert flat({"a": {"secret": None, "tokens": 1}, "b": [{"c": "Bearer abc"}]}) == {
        "a.secret": "null",
        "a.tokens": "1",
        "b": "[{'c': '(hidden)'}]",
    }
    shown = flat(
        {"a": {"api_key": "k", "HF_TOKEN": "t", "max_token_len": 3, "url": "redis://u:p@h", "b": [1], "c": {}}}
    )
    assert shown == {
        "a.api_key": "(hidden)",
        "a.HF_TOKEN": "(hidden)",
        "a.max_token_len": "3",
        "a.url": "(hidden)",
        "a.b": "[1]",
        "a.c": "{}",
    }


def test_the_dumps_columns_are_the_documented_ones(tmp_path):
    import pyarrow.parquet

    trajectory_dump.write(tmp_path / "1.parquet", [])
    assert pyarrow.parquet.read_schema(tmp_path / "1.parquet").names == list(trajectory_dump.SCHEMA)
    assert trajectory_dump.read(tmp_path / "1.parquet") == []
    rollback_dump.write(tmp_path / "2.parquet", [])
    with pytest.raises(ValueError, match="no dump of trajectories of schema version 2"):
        trajectory_dump.read(tmp_path / "2.parquet")
