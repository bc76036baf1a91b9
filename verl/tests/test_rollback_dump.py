"""Rollbacks as a table, and the command that replays it."""

import json

import pyarrow.parquet
import pytest
from loop_harness import ScriptedServer, call, make_config, rollback, run_loop
from report_data import retry

from verl_cleaner import replay
from verl_cleaner.config import rollback_config
from verl_cleaner.records import rollbacks as rollback_dump
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop

FAIL, LONE, SLOW = call("NameError x is not defined"), call("say \ud83d"), call("timeout slow")
SCRIPT = [
    f"A. {FAIL}", f"A. {call('ok NameError x is 1')}",
    f"B. {call('ValueError é')}", f"B. {call('ValueError é')}", f"C. {call('ok 42')}",
    f"D. {LONE}\n{SLOW}", "No more.",
]  # fmt: skip


async def table(*, step=7, **values):
    config = make_config(*rollback(**values))
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer(SCRIPT), config)
    settings = rollback_config(config.actor_rollout_ref.rollout.multi_turn)
    return rollback_dump.rows([("a_b_3_0", output.extra_fields[RECORD_FIELD])], step=step, config=settings), output


async def test_a_row_for_every_retry():
    rows, output = await table()
    assert [(r["turn"], r["retry"], r["result"]) for r in rows] == [
        (1, 1, "overwritten"),
        (2, 1, "overwritten"),
        (2, 2, "overwritten"),
        (3, 1, "no_call"),
    ]
    assert {(r["step"], r["uid"], r["rollout"]) for r in rows} == {(7, "a_b", 3)}
    assert [r["kinds"] for r in rows] == [["NameError"], ["ValueError"], ["ValueError"], ["timeout"]]
    assert [r["strategy"] for r in rows] == ["tool_call_only", "tool_call_only", "full_turn", None]
    assert rows[0]["failed_call"] == "NameError x is not defined"
    assert rows[3]["failed_call"] == "say ?\ntimeout slow"
    assert all(r["generated"] > 0 and r["seconds"] >= 0 for r in rows)
    for row in (rows[0], rows[2]):  # the last overwrite of a turn is what is trained on
        assert all(output.response_mask[row["span_start"] : row["span_end"]])


async def test_the_file_has_the_documented_columns(tmp_path):
    rows, _ = await table()
    rollback_dump.write(tmp_path / "rollbacks" / "7.parquet", rows)
    assert rollback_dump.read(tmp_path / "rollbacks" / "7.parquet") == rows
    assert [path.name for path in (tmp_path / "rollbacks").iterdir()] == ["7.parquet"]
    schema = pyarrow.parquet.read_schema(tmp_path / "rollbacks" / "7.parquet")
    assert schema.names == list(rollback_dump.SCHEMA)
    rollback_dump.write(tmp_path / "empty.parquet", [])
    assert rollback_dump.read(tmp_path / "empty.parquet") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kinds": None}, "row 2 holds kinds=None, expected list<string>"), ({"error": [1]}, r"row 2 holds error=\[1\]")],
)
def test_values_of_another_type_are_named(tmp_path, change, message):
    rows = [retry(7, "a", 0, old="x", new="y"), retry(7, "a", 1, old="x", new="y") | change]
    (tmp_path / "7.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        rollback_dump.read(tmp_path / "7.jsonl")


def test_separators_within_a_text_end_no_row(tmp_path):
    rows = [retry(7, "a", 0, old="x", new="y", error="a\u2028b\u2029c\x85d\x0ce")] * 2
    rollback_dump.write(tmp_path / "7.parquet", rows)
    (tmp_path / "7.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for suffix in ("jsonl", "parquet"):
        assert rollback_dump.read(tmp_path / f"7.{suffix}") == rows


async def test_replay_shows_the_repair(tmp_path, capsys):
    rows, _ = await table()
    rollback_dump.write(tmp_path / "7.parquet", rows)
    capsys.readouterr()  # VeRL prints the tools' schemas
    assert replay.main([str(tmp_path / "7.parquet"), "--row", "0", "--color", "never"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "# step 7 · a_b rollout 3 · turn 1 retry 1 · NameError -> overwritten",
        f"  similarity {rows[0]['similarity']:.2f} (threshold 0.5) · tool_call_only · "
        f"{rows[0]['generated']} tokens generated, {rows[0]['discarded']} discarded · {rows[0]['seconds']:.2f} s",
        "! NameError: x is not defined",
        "- NameError x is not defined",
        "+ ok NameError x is 1",
        "",
    ]
    assert replay.main([str(tmp_path / "7.parquet"), "--kind", "timeout", "--color", "always"]) == 0
    shown = capsys.readouterr().out
    assert "\033[31m- timeout slow\033[0m" in shown
    assert shown.count("\033[1m#") == 1
    assert replay.main([str(tmp_path / "7.parquet"), "--result", "overwritten"]) == 0
    assert capsys.readouterr().out.count("# step") == 3


async def test_replay_shows_what_was_malformed(tmp_path, capsys):
    broken = call("ok 1").replace("}}", "}")
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer([broken, call("ok 1"), "Done."]), make_config(*rollback()))
    config = rollback_config(make_config(*rollback()).actor_rollout_ref.rollout.multi_turn)
    rows = rollback_dump.rows([("a_0_0", output.extra_fields[RECORD_FIELD])], step=1, config=config)
    rollback_dump.write(tmp_path / "1.parquet", rows)
    assert replay.main([str(tmp_path / "1.parquet")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert '! as written: {"name": "code_interpreter", "arguments": {"code": "ok 1"}' in shown
    assert "  ok 1" in shown
    assert rows[0]["similarity"] == 1.0


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"new_call": "something else"}, "similarity is"), ({"threshold": 0.99}, "strategy tool_call_only")],
)
async def test_replay_takes_the_decision_again(tmp_path, capsys, change, problem):
    rows, _ = await table()
    rollback_dump.write(tmp_path / "7.parquet", [rows[0] | change])
    assert replay.main([str(tmp_path / "7.parquet")]) == 1
    assert f"replay differs: {problem}" in capsys.readouterr().out


async def test_what_cannot_be_replayed(tmp_path, capsys):
    for arguments, message in (([str(tmp_path / "no.jsonl")], "trainer.rollout_data_dir"), ([], "required")):
        with pytest.raises(SystemExit):
            replay.main(arguments)
        assert message in capsys.readouterr().err
    (tmp_path / "other.jsonl").write_text(json.dumps({"input": "x"}) + "\n")
    with pytest.raises(ValueError, match="no dump of rollbacks of schema version 1"):
        replay.main([str(tmp_path / "other.jsonl")])
    rows, _ = await table()
    rollback_dump.write(tmp_path / "7.parquet", rows)
    with pytest.raises(SystemExit):
        replay.main([str(tmp_path / "7.parquet"), "--row", "4"])
    assert "must be in [0, 3], got 4" in capsys.readouterr().err
