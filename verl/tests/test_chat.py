"""Rollouts of other frameworks: chat messages in the spellings that are common, and files that are broken."""

import json

import pytest
from report_page import Page

from verl_cleaner.inspect import main
from verl_cleaner.report import chat
from verl_cleaner.report.__main__ import main as report
from verl_cleaner.report.conversation import Kind
from verl_cleaner.report.folder import Split, find_runs
from verl_cleaner.report.run import read_run

CODE = "print(6 * 7)"
ARGUMENTS = json.dumps({"code": CODE})
ASKED = {"role": "user", "content": "What is 6 x 7?"}
WRITTEN = f'<tool_call>\n{{"name": "python", "arguments": {ARGUMENTS}}}\n</tool_call>'
TOOL = {"id": "c1", "type": "function", "function": {"name": "python", "arguments": ARGUMENTS}}

OPENAI = [
    {"role": "system", "content": "You may use python."},
    ASKED,
    {"role": "assistant", "content": "I compute it.", "tool_calls": [TOOL]},
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
]
SHAREGPT = [
    {"from": "system", "value": "You may use python."},
    {"from": "human", "value": "What is 6 x 7?"},
    {"from": "gpt", "value": "I compute it."},
    {"from": "function_call", "value": json.dumps({"name": "python", "arguments": {"code": CODE}})},
    {"from": "observation", "value": "42"},
    {"from": "gpt", "value": "It is 42."},
]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


SPELLINGS = {
    "OpenAI": {"messages": OPENAI},
    "OpenAI, arguments as object": {
        "messages": [
            *OPENAI[:2],
            OPENAI[2] | {"tool_calls": [{"function": {"name": "python", "arguments": {"code": CODE}}}]},
            *OPENAI[3:],
        ]
    },
    "OpenAI, function_call": {
        "messages": [
            *OPENAI[:2],
            {"role": "assistant", "content": "I compute it.", "function_call": TOOL["function"]},
            {"role": "function", "name": "python", "content": "42"},
            OPENAI[4],
        ]
    },
    "a list of messages": OPENAI,
    "ShareGPT": {"conversations": SHAREGPT},
    "ShareGPT, system apart": {"system": SHAREGPT[0]["value"], "conversations": SHAREGPT[1:]},
    "prompt and completion": {"prompt": OPENAI[:2], "completion": OPENAI[2:]},
    "calls in the text": {
        "messages": [
            *OPENAI[:2],
            {"role": "assistant", "content": f"I compute it.\n{WRITTEN}"},
            {"role": "user", "content": "<tool_response>\n42\n</tool_response>"},
            OPENAI[4],
        ]
    },
    "content blocks": {
        "system": "You may use python.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is 6 x 7?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I compute it."},
                    {"type": "tool_use", "id": "c1", "name": "python", "input": {"code": CODE}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "42"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "It is 42."}]},
        ],
    },
    "items of Responses": {
        "prompt": [{"role": "developer", "content": "You may use python."}, ASKED],
        "response": [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I compute it."}]},
            {"type": "function_call", "name": "python", "arguments": ARGUMENTS, "call_id": "c1"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is 42."}]},
        ],
    },
}


@pytest.mark.parametrize("row", SPELLINGS.values(), ids=SPELLINGS)
def test_a_conversation_is_the_same_in_every_spelling(row):
    assert chat.is_chat(row)
    prompt, blocks, kinds = chat.read(row)
    assert [(block.kind, block.text) for block in prompt] == [
        (Kind.SYSTEM, "You may use python."),
        (Kind.USER, "What is 6 x 7?"),
    ]
    told, call, response, answer = blocks
    assert (told.kind, told.text, told.turn) == (Kind.TEXT, "I compute it.", 1)
    assert (call.kind, call.tool, call.code, call.turn) == (Kind.CALL, "python", CODE, 1)
    assert (response.kind, response.text, response.turn) == (Kind.RESPONSE, "42", 1)
    assert (answer.kind, answer.text, answer.turn) == (Kind.TEXT, "It is 42.", 2)
    assert kinds == []


def test_thinking_failures_and_later_questions():
    row = [
        ASKED,
        {"role": "assistant", "reasoning_content": "Hm.", "content": "", "tool_calls": [TOOL, TOOL]},
        {"role": "tool", "content": "NameError", "status": "error"},
        {"role": "tool", "content": [{"type": "text", "text": "42"}, {"type": "image_url"}]},
        {"role": "assistant", "content": "42."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "<think>Again.</think>Yes."},
    ]
    _, blocks, kinds = chat.read(row)
    assert kinds == ["error"]
    assert [(block.kind, block.turn) for block in blocks] == [
        (Kind.THINKING, 1), (Kind.CALL, 1), (Kind.CALL, 1), (Kind.RESPONSE, 1), (Kind.RESPONSE, 1), (Kind.RESPONSE, 1),
        (Kind.TEXT, 2), (Kind.USER, 2), (Kind.THINKING, 3), (Kind.TEXT, 3),
    ]  # fmt: skip
    assert "[image_url]" in [block.text for block in blocks]


def test_a_call_whose_arguments_are_no_json_is_malformed_not_an_error():
    broken = {"function": {"name": "python", "arguments": '{"code": "print(1'}}
    _, blocks, _ = chat.read([ASKED, {"role": "assistant", "tool_calls": [broken]}])
    assert (blocks[0].kind, blocks[0].tool, blocks[0].code) == (Kind.CALL, "", "")


BROKEN = {
    '{"messages": [{"role": "assitant", "content": "x"}]}': 'messages[0].role: expected one of assistant, gpt',
    '{"messages": [{"content": "x"}]}': "messages[0].role: missing, got the keys content",
    '{"messages": {"role": "user"}}': "messages: expected a list of messages, got {",
    '{"messages": ["x"]}': 'messages[0]: expected a message, got "x"',
    '{"messages": [{"role": "user", "content": "x"}]}': "messages: expected a message of the assistant",
    '{"messages": []}': "messages: expected a message of the assistant, got 0 messages",
    '{"messages": [{"role": "assistant", "content": 7}]}': "messages[0].content: expected text or a list",
    '{"messages": [{"role": "assistant", "tool_calls": "x"}]}': 'messages[0].tool_calls: expected a list, got "x"',
    '{"messages": [{"role": "assistant", "tool_calls": [7]}]}': "messages[0].tool_calls[0]: expected an object",
    '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]}':
        "messages[0].tool_calls[0].function.name: expected text, got null",
    '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "p", "arguments": [1]}}]}]}':
        "messages[0].tool_calls[0].function.arguments: expected an object or JSON text, got [1]",
    '{"conversations": [{"from": "robot", "value": "x"}]}': "conversations[0].from: expected one of",
    '{"prompt": "x", "completion": 7}': "completion: expected a list of messages, got 7",
    '{"other": 1}': "messages or conversations or conversation: missing, got the keys other",
    '{"messages": [{"role": "assistant", "content": "x"}], "reward": "high"}': 'reward: expected a number',
    '{"messages": [{"role": "assis': "no JSON: ",
}  # fmt: skip


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_row_names_file_line_and_key(tmp_path, capsys, line):
    if 'tool_calls": {}' in line:
        pytest.skip("an empty object is as good as no calls")
    good = json.dumps({"messages": OPENAI})
    (tmp_path / "theirs.jsonl").write_text(f"{good}\n\n{line}\n{good}\n")
    assert main([str(tmp_path / "theirs.jsonl")]) == 0
    said = capsys.readouterr()
    assert f"theirs.jsonl: line 3: {BROKEN[line]}" in said.err
    assert said.out.count("What is 6 x 7?") == 2


def test_a_file_without_any_good_row_is_refused_with_the_same_words(tmp_path, capsys):
    (tmp_path / "theirs.jsonl").write_text('{"messages": [{"role": "assitant"}]}\n' * 8)
    for command in (main, report):
        with pytest.raises(SystemExit):
            command([str(tmp_path / "theirs.jsonl")])
        error = capsys.readouterr().err
        assert "theirs.jsonl: line 1: messages[0].role: expected one of" in error
        assert "line 5" in error
        assert "line 6" not in error


@pytest.mark.parametrize("text", ["", "not json\n", '{"a": 1}\n', "[1, 2]", '"text"\n'])
def test_what_holds_no_rollouts_says_what_is_expected(tmp_path, capsys, text):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "x.jsonl")])
    assert "x.jsonl holds no rollouts that can be read; expected JSON lines with the keys" in capsys.readouterr().err


def read(path):
    (folder,) = find_runs(path)
    return read_run(folder, name="theirs", limit=1000)


def test_facts_of_a_row_and_groups_by_prompt(tmp_path):
    rows = [
        {"messages": OPENAI, "reward": 0.5, "answer": 42, "step": 7, "is_correct": True, "id": "q1"},
        {"messages": OPENAI, "score": 0.0},
        {"messages": OPENAI},
    ]
    (tmp_path / "eval_12.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = read(tmp_path / "eval_12.jsonl")
    assert run.warnings.texts == []
    assert run.total == 3
    found = {(t.step, t.score, t.acc, t.ground_truth, t.rollout) for t in run.trajectories}
    assert found == {(7, 0.5, 1.0, "42", 0), (12, 0.0, None, "", 0), (12, None, None, "", 1)}
    assert {t.split for t in run.trajectories} == {Split.VALIDATION}
    assert len({t.uid for t in run.trajectories}) == 2


@pytest.mark.parametrize("indent", [None, 2])
def test_one_json_list_is_rows_and_a_list_a_line_is_messages(tmp_path, indent):
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": SHAREGPT}] * 3, indent=indent))
    (tmp_path / "b.jsonl").write_text(f"{json.dumps(OPENAI)}\n" * 2)
    assert len(read(tmp_path / "a.json").trajectories) == 3
    assert len(read(tmp_path / "b.jsonl").trajectories) == 2
    # A folder of such files is one run.
    assert len(read(tmp_path).trajectories) == 5


def test_the_inspector_shows_a_call_of_theirs(tmp_path, capsys):
    (tmp_path / "theirs.jsonl").write_text(json.dumps({"messages": OPENAI, "reward": 1}) + "\n")
    assert main([str(tmp_path / "theirs.jsonl"), "--color", "never"]) == 0
    text = capsys.readouterr().out
    for part in ("You may use python.", "call · turn 1", CODE, "\n42", "It is 42.", "reward 1"):
        assert part in text
    assert main([str(tmp_path / "theirs.jsonl"), "--text", "seven"]) == 1


# ---- VeRL's dumps --------------------------------------------------------------------------------------------------


def verl_row(number=1, **more):
    text = f"I compute it.\n{WRITTEN}\nuser\n<tool_response>\n42\n</tool_response>\nassistant\nIt is 42."
    return {"input": "user\nWhat is 6 x 7?\nassistant\n", "output": text, "gts": "42", "score": 1.0, "step": 3} | more


def test_one_of_verls_dumps_opens_as_a_file(tmp_path, capsys):
    """Training writes a uid; validation writes what the reward function returns, in lists of equal length."""
    rows = [verl_row(uid="u_0_0"), verl_row(uid="u_1_0", reward=1.0, acc=True, pred="42")]
    (tmp_path / "3.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read(tmp_path / "3.jsonl")
    assert run.warnings.texts == []
    assert [(t.step, t.uid, t.rollout, t.acc) for t in run.trajectories] == [(3, "u", 0, None), (3, "u", 1, 1.0)]
    assert [block.kind for block in run.trajectories[0].blocks] == [Kind.TEXT, Kind.CALL, Kind.RESPONSE, Kind.TEXT]
    assert main([str(tmp_path / "3.jsonl"), "--rollout", "1"]) == 0
    assert CODE in capsys.readouterr().out


def test_broken_lines_of_verls_dump_are_named(tmp_path, capsys):
    lines = [json.dumps(verl_row()), json.dumps(verl_row(score="high")), '{"input": "x"}', '{"input": "half wri']
    (tmp_path / "3.jsonl").write_text("\n".join(lines))
    main([str(tmp_path / "3.jsonl")])
    said = capsys.readouterr().err
    assert "line 2: score: expected a number, got 'high'" in said
    assert "2 lines left out (lines 3, 4): no JSON object with 'output'" in said


def test_the_last_line_may_lack_its_end(tmp_path):
    (tmp_path / "3.jsonl").write_text(json.dumps(verl_row()))
    assert len(read(tmp_path / "3.jsonl").trajectories) == 1


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_report_opens_a_file_of_theirs(browser, tmp_path):
    row = {"messages": [*OPENAI, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]}
    (tmp_path / "theirs.jsonl").write_text(f"{json.dumps(row | {'reward': 1})}\n{json.dumps(row | {'reward': 0})}\n")
    assert report([str(tmp_path / "theirs.jsonl"), "-o", str(tmp_path / "report.html")]) == 0
    page = Page(browser, tmp_path / "report.html")
    page.one(".prompt-row", "1 of 2 right")
    page.all(".row")[0].click()
    assert CODE in page.one(".detail .call").text
    assert "Sure?" in [node.text for node in page.all(".detail .message.user .prose")][-1]
    assert not page.all(".warnings")
    assert page.errors() == []
