"""Rewards of programs, as a table, through a real judge: what is given, what it scores, and why."""

import ast
import asyncio
import json
import subprocess
import sys

import pytest
from live_judge import live_judge

from code_judge.wire import TIMEOUT_MARK, CaseResult, Options, RunResult
from verl_cleaner.reward import judging
from verl_cleaner.reward.cases import Case, read_cases
from verl_cleaner.reward.code import _verdict, score_code
from verl_cleaner.reward.judging import Judge
from verl_cleaner.reward.programs import canonical, stdin_program, syntax_problem
from verl_cleaner.reward.router import compute_score
from verl_cleaner.saar.outcome import InfrastructureError

STDIN = {"inputs": ["1 2\n", "3 4\n", "10 20\n", "0 0\n"], "outputs": ["3\n", "7\n", "30\n", "0\n"]}
ROWS = {"inputs": ["3"], "outputs": ["0 1 2\n3 4 5\n"]}
CALL = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}
LISTS = {"fn_name": "twice", "inputs": [[1]], "outputs": [[1, 1]]}
LINES = {"fn_name": "add", "inputs": ["1\n2", "3\n4\n"], "outputs": ["3", "7"]}
LEETCODE = {
    "entry_point": "Solution().twice",
    "import_prefix": "from typing import *\nclass Node:\n    def __init__(self, value):\n        self.value = value\n",
    "test_code": "def check(candidate):\n    assert candidate(x=3) == 6\n    assert candidate(x=-1) == -2\n",
}
HUMAN_EVAL = {
    "entry_point": "third",
    "import_prefix": "def second(x):\n    return x + 1\n\ndef third(x):\n    '''Two more than x.'''\n",
    "test_code": "def check(candidate):\n    assert candidate(1) == 3\n    assert candidate(second(1)) == 4\n",
}

SUM = "a, b = map(int, input().split())\n"
EQUAL = "class E({base}):\n    def __eq__(self, other):\n        return True\n"
# (tests, program, score, reason, why)
PROGRAMS = [
    (STDIN, SUM + "print(a + b)", 1, "", "the plain case"),
    (STDIN, SUM + "print(a + b + (a == 0))", 0.75, "wrong_output", "the share of tests passed"),
    (STDIN, SUM + "print(f'  {a + b}.0  \\n\\n')", 1, "", "numbers are compared by value, blanks around do not count"),
    (STDIN, SUM + "print(a + b, 'done')", 0, "wrong_output", "further words count"),
    (STDIN, SUM + "print('debug'); print(a + b)", 0, "wrong_output", "further lines count"),
    (
        STDIN,
        "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
        1,
        "",
        "main",
    ),
    (
        STDIN,
        "'''Adds.'''\nfrom __future__ import annotations\n" + SUM + "print(a + b)",
        1,
        "",
        "future imports stay first",
    ),
    (STDIN, "print(sum(map(int, sys.stdin.read().split())))", 1, "", "usual modules need no import"),
    (
        STDIN,
        "from math import *\nprint(pow(2, 3, 5) and sum(map(int, input().split())))",
        0,
        "TypeError",
        "own imports win",
    ),
    (STDIN, "print(pow(2, 3, 5) and sum(map(int, input().split())))", 1, "", "ours hide no builtins"),
    (STDIN, SUM + "print(a + b)\nraise SystemExit(1)", 0, "nonzero_exit", "an exit status is a failure"),
    (
        STDIN,
        SUM + "print(a + b if a != 3 else 1 // 0)",
        0.75,
        "ZeroDivisionError",
        "named by the first test that fails",
    ),
    (STDIN, "while True: pass", 0, "timeout", "an endless loop is the program's own fault"),
    (STDIN, "x = [0] * 10**9", 0, "memory", "so is taking too much memory"),
    (STDIN, "", 0, "wrong_output", "an empty program is one, and prints nothing"),
    (STDIN, "def f(:", -1, "syntax_error", "no Python"),
    (STDIN, "print('\0')", -1, "syntax_error", "a NUL cannot be in a source"),
    (STDIN, "print('\ud800')", -1, "syntax_error", "nor can half a character"),
    (STDIN, "x = " + "(" * 5000, -1, "syntax_error", "nor more parentheses than the parser holds"),
    (STDIN, None, -1, "no_code", "no program at all"),
    (ROWS, "for r in range(2): print(*[3 * r + c for c in range(3)], end=' \\n')", 1, "", "blanks at the end of lines"),
    (ROWS, "print(*range(6))", 0, "wrong_output", "lines are not words"),
    (CALL, "def add(a, b):\n    print('debug')\n    return a + b", 1, "", "what is printed on the way does not count"),
    (CALL, "class Solution:\n    def add(self, a: int, b: int) -> List[int]:\n        return a + b", 1, "", "a method"),
    (CALL, "def add(a, b):\n    return [a + b]", 1, "", "TACO may wrap a result into a list"),
    (CALL, "def add(a, b):\n    return [[a + b]]", 0, "wrong_output", "but not twice"),
    (
        CALL,
        "print(3)",
        0,
        "KeyError",
        "the function must be there, also where a module has one of its name (operator.add)",
    ),
    (CALL, "def add(a, b):\n    return str(a + b)", 0, "wrong_output", "a text is no number"),
    (CALL, "def add(a, b):\n    return float(a + b)", 1, "", "3.0 equals 3"),
    (CALL, "def add(a, b):\n    return {a + b}", 0, "TypeError", "a set is no JSON"),
    (CALL, "def add(a):\n    return a", 0, "TypeError", "it is really called, with all arguments"),
    (
        CALL,
        "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    print(input())",
        1,
        "",
        "main is not run",
    ),
    (CALL, "import os\ndef add(a, b):\n    os._exit(0)", 0, "wrong_output", "leaving early answers nothing"),
    (
        CALL,
        EQUAL.format(base="object") + "def add(a, b):\n    return E()",
        0,
        "TypeError",
        "no object equals everything",
    ),
    (LISTS, "def twice(x):\n    return (x, x)", 1, "", "a tuple is a list"),
    (LINES, "def add(a, b):\n    return a + b", 1, "", "LiveCodeBench's form of arguments"),
    (LINES, "def add(a, b):\n    return [a + b]", 0, "wrong_output", "there nothing is wrapped"),
    (
        LEETCODE,
        "class Solution:\n    def twice(self, x):\n        return Node(2 * x).value",
        1,
        "",
        "with the prefix's classes",
    ),
    (
        LEETCODE,
        "class Solution:\n    def twice(self, x):\n        return 6",
        0,
        "AssertionError",
        "one assertion fails",
    ),
    (LEETCODE, "def twice(x):\n    return 2 * x", 0, "NameError", "the entry point must be defined"),
    (
        LEETCODE,
        "class Solution:\n    def twice(self, x):\n        exit()",
        0,
        "wrong_output",
        "leaving early is not passing",
    ),
    *(
        (
            LEETCODE,
            EQUAL.format(base=base) + f"class Solution:\n    def twice(self, x):\n        return {value}",
            0,
            "TypeError",
            "no result equals everything",
        )
        for base, value in (("object", "E()"), ("int", "E(1)"), ("list", "[E()]"), ("dict", "{1: E()}"))
    ),
    (HUMAN_EVAL, "def third(x):\n    return second(x) + 1", 1, "", "with the prompt's helpers"),
    (HUMAN_EVAL, "def fourth(x):\n    return x", 0, "NameError", "the prompt's stub is no solution"),
]


@pytest.fixture(scope="module")
def url():
    with live_judge(MAX_EXECUTION_TIME=2) as it:
        yield it


def response(program):
    return "No program." if program is None else f"Here it is:\n```python\n{program}\n```\n"


def rewards(url, rows, **options):
    async def all_of_them():
        return await asyncio.gather(
            *(
                compute_score(source, response(program), json.dumps(truth), {"index": 7}, judge_url=url, **options)
                for source, program, truth in rows
            )
        )

    return asyncio.run(all_of_them())


def test_the_table(url):
    found = rewards(url, [("train-code-taco", program, truth) for truth, program, *_ in PROGRAMS])
    for result, (truth, program, score, reason, why) in zip(found, PROGRAMS, strict=True):
        assert (result["score"], result["reason"]) == (score, reason), (why, program)
        assert result["acc"] == result["verified"] == float(score == 1), why
        tests = truth["test_code"].count("assert ") if "test_code" in truth else len(truth["inputs"])
        assert result["tests"] == (0 if score == -1 else tests), why
        if "inputs" in truth:
            assert result["passed"] == max(score, 0) * result["tests"], why
            assert result["share"] == max(score, 0), why


TEN = "def check(candidate):\n" + "".join(f"    assert candidate({x}) == {2 * x}\n" for x in range(10))
EARLY = TEN.replace("== 0\n", "== 0\n    return\n", 1)
# (program, test, assertions that hold of how many, reason, why)
ASSERTIONS = [
    ("return 2 * x", TEN, 10, 10, "", "all"),
    ("return 2 * x if x != 3 else 0", TEN, 9, 10, "AssertionError", "those after the first failure count, too"),
    ("return 0", TEN, 1, 10, "AssertionError", "one by chance"),
    ("return 2 * x if x < 6 else 1 // 0", TEN, 6, 10, "ZeroDivisionError", "an exception is a failure"),
    ("return 2 * x if x < 6 else exit()", TEN, 6, 10, "wrong_output", "so is leaving early"),
    ("while x == 4: pass\n        return 2 * x", TEN, 4, 10, "timeout", "those before an endless loop"),
    ("import os; os.write(1, b'x' * 10); return 0", TEN, 0, 10, "AssertionError", "printing at the marks' place"),
    ("return 2 * x if x < 6 else 1 // 0", EARLY, 10, 10, "", "an early return passes"),
    (
        "return 2 * x if x != 3 else 0",
        "def check(c):\n    for x in range(5):\n        assert c(x) == 2 * x\n    assert c(9) == 18\n",
        1,
        2,
        "AssertionError",
        "a loop is one",
    ),
    (
        "return 2 * x",
        "def check(candidate):\n    y = candidate(2)\n    def inner():\n        assert False\n    assert y == 4\n",
        1,
        1,
        "",
        "what is not run is none",
    ),
    ("return x", "def check(c):\n    if c(2) != 4: raise ValueError\n", 0, 1, "ValueError", "no assertion"),
]  # fmt: skip


def test_of_a_leetcode_row_the_share_of_assertions_is_reported_beside_all_or_nothing(url):
    rows = [
        (f"class Solution:\n    def twice(self, x):\n        {body}", LEETCODE | {"test_code": test})
        for body, test, *_ in ASSERTIONS
    ]
    found = rewards(url, [("train-code-leetcode", program, truth) for program, truth in rows])
    for result, (body, _, held, tests, reason, why) in zip(found, ASSERTIONS, strict=True):
        assert (result["passed"], result["tests"], result["reason"]) == (held, tests, reason), (why, body)
        assert result["share"] == held / tests, why
        assert result["score"] == result["acc"] == float(not reason), why


def test_a_check_with_more_assertions_than_the_output_holds(url):
    test = "def check(candidate):\n" + "    assert candidate(1) == 2\n" * 2000
    program = "class Solution:\n    def twice(self, x):\n        return {}"
    rows = [("train-code-leetcode", program.format(value), LEETCODE | {"test_code": test}) for value in ("2", "3")]
    assert [(r["score"], r["passed"], r["tests"]) for r in rewards(url, rows)] == [(1, 500, 500), (0, 0, 500)]


LONG = 10**5000
sys.set_int_max_str_digits(0)
ADD, FIRST, ADDED = "def add(a, b): return a + b", "def add(a, b): return a", SUM + "print(a + b)"


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        ({"fn_name": "add", "inputs": [[LONG, 1]], "outputs": [LONG + 1]}, ADD, FIRST),
        ({"fn_name": "add", "inputs": [f"{LONG}\n1"], "outputs": [f"{LONG + 1}"]}, ADD, FIRST),
        ({"inputs": [f"{LONG}\n"], "outputs": [f"{LONG + 1}\n"]}, "print(int(input()) + 1)", "print(int(input()))"),
        ({"inputs": str(STDIN["inputs"]), "outputs": str(STDIN["outputs"])}, ADDED, "print(0, 0)"),
        ({"inputs": json.dumps(STDIN["inputs"]), "outputs": json.dumps(STDIN["outputs"])}, ADDED, "print(0, 0)"),
        ({"fn_name": "add", "inputs": "[[1, 2], (3, 4)]", "outputs": "(3, 7)"}, ADD, FIRST),
        (str(STDIN), ADDED, "print(0, 0)"),
    ],
)  # fmt: skip
def test_tests_as_data_sets_store_them(url, truth, right, wrong):
    """Integers beyond 4,300 digits, and the text of a Python value."""
    sys.set_int_max_str_digits(4300)
    text = truth if isinstance(truth, str) else dump(truth)
    found = asyncio.run(both(url, text, right, wrong))
    assert [result["score"] for result in found] == [1.0, 0.0]


def dump(truth):
    sys.set_int_max_str_digits(0)
    text = json.dumps(truth)
    sys.set_int_max_str_digits(4300)
    return text


async def both(url, truth, *programs):
    return [
        await compute_score("train-code-taco", response(program), truth, {"index": 7}, judge_url=url)
        for program in programs
    ]


def test_early_stop_ends_at_the_first_failing_wave(url):
    truth = {"inputs": [str(i) for i in range(12)], "outputs": [str(i) for i in range(12)]}
    programs = ["print(input())", "print(5)", "x = int(input()); print(x if x != 2 else 0)"]
    found = rewards(url, [("LiveCodeBench_v6", program, truth) for program in programs], early_stop=True)
    assert [(r["acc"], r["tests"]) for r in found] == [(1, 12), (0, 1), (0, 3)]
    found = rewards(url, [("LiveCodeBench_v6", program, truth) for program in programs])
    assert [(r["score"], r["tests"]) for r in found] == [(1, 12), (1 / 12, 12), (11 / 12, 12)]


def test_long_outputs_are_compared_whole(url):
    """The judge returns the first 1,000 characters, but compares all."""
    truth = {"inputs": ["0", "1"], "outputs": ["\n".join(["7"] * 3000)] * 2}
    program = "extra = int(input())\nfor i in range(3000 + extra): print(7, end=' \\n')"
    assert rewards(url, [("train-code-taco", program, truth)])[0]["score"] == 0.5


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ('{"inputs": [', "ground_truth is not JSON"),
        ("[]", "must be a JSON object"),
        ({"inputs": [], "outputs": []}, "inputs is empty, expected at least one test"),
        ({"inputs": ["1"], "outputs": []}, "same length, got 1 entries and 0 entries"),
        ({"inputs": "1", "outputs": ["1"]}, "same length, got str and 1 entries"),
        ({"inputs": ["1"]}, "must have inputs and outputs, or entry_point and test_code, got the keys inputs"),
        ({"inputs": [3], "outputs": ["1"]}, r"inputs\[0\] must be a text or a list of lines, got 3"),
        ({"inputs": ["{"], "outputs": ["1"], "fn_name": "f"}, "test 0: arguments and result must be JSON"),
        ({"inputs": [{"a": 1}], "outputs": [1], "fn_name": "f"}, "test 0: inputs must be a list of arguments"),
        ({"entry_point": "f", "test_code": "assert True"}, r"must define check\(candidate\)"),
        ({"entry_point": "f", "test_code": "def check(c):\n    assert c("}, r"test_code is not Python"),
        ({"inputs": "1 2", "outputs": ["3"]}, "same length, got str and 1 entries"),
        ("{'inputs': ['1']", "ground_truth is not JSON"),
    ],
)
@pytest.mark.parametrize("program", ["print(1)", None])
def test_a_broken_row_is_an_error_of_the_data_whatever_the_answer(truth, message, program):
    text = truth if isinstance(truth, str) else json.dumps(truth)
    with pytest.raises(ValueError, match=message) as error:
        asyncio.run(compute_score("train-code-taco", response(program), text, {"index": 7}, judge_url="http://nowhere"))
    assert "data_source train-code-taco, row 7: reward_model.ground_truth" in str(error.value)


def test_a_judge_that_does_not_answer_is_an_outage_not_a_wrong_answer():
    async def ask():
        judge = Judge("http://127.0.0.1:9", deadline=0.5)
        await score_code("print(1)", read_cases(STDIN, where="row"), judge=judge)

    with pytest.raises(InfrastructureError, match=r"gave no verdict in 0\.5 s"):
        asyncio.run(ask())


def test_waiting_for_a_place_is_no_outage(url):
    """Twelve programs of a fifth of a second, two at a time: the last waits longer than the deadline of each."""

    async def ask():
        judge = Judge(url, in_flight=2, deadline=1)
        cases = read_cases({"inputs": [""] * 12, "outputs": ["1"] * 12}, where="row")
        result = await score_code("import time; time.sleep(0.2); print(1)", cases, judge=judge)
        await judge.close()
        return result

    assert asyncio.run(ask()).score == 1.0


def test_a_program_travels_with_as_many_tests_as_a_submission_may_have(monkeypatch):
    """By number and by size; results keep the tests' order, and no test is left out."""
    monkeypatch.setattr("verl_cleaner.reward.code.MOST_TEXT", 1000)
    sent, running, most = [], 0, 0

    class Client:
        async def run(self, submission):
            nonlocal running, most
            tests = submission.tests
            sent.append([test.input for test in tests])
            running += len(tests)
            most = max(most, running)
            await asyncio.sleep(0.01 / len(sent))
            running -= len(tests)
            results = [
                {"success": test.input[0] != "2", "run_success": True, "cost": 0, "reason": "", "stdout": ""}
                for test in tests
            ]
            return RunResult(sub_id="", success=True, run_success=True, cost=0, reason="", tests=results)

    async def ask():
        judge = Judge("http://nowhere", in_flight=4)
        judge._small = judge._large = Client()
        inputs = [str(i) + "x" * (600 if i in (5, 6) else 0) for i in range(12)]
        cases = read_cases({"inputs": inputs, "outputs": [""] * 12}, where="row")
        return inputs, await score_code("print(1)", cases, judge=judge)

    inputs, result = asyncio.run(ask())
    assert [len(some) for some in sent] == [4, 2, 4, 2]
    assert [text for some in sent for text in some] == inputs
    assert result.score == 11 / 12
    assert most == 4


def test_the_note_of_a_timeout_is_no_assertion_that_held():
    """It has letters that marks have."""
    case = Case("", ("",), Options(), marks="c" * 40)
    timeout = {"success": False, "run_success": False, "cost": 1, "reason": "worker_timeout", "kind": "timeout"}
    assert _verdict(case, CaseResult(**timeout, stdout="cc" + TIMEOUT_MARK)).held == 2


def test_large_tests_do_not_share_a_request(url):
    """Sixteen of them would be 80 MB, more than a judge takes."""
    big = "7" * 5_000_000
    truth = {"inputs": [big] * 16, "outputs": ["5000000"] * 16}
    assert rewards(url, [("train-code-taco", "print(len(input()))", truth)])[0]["score"] == 1.0


def test_an_event_loop_has_its_own_client():
    async def judges():
        return [judging.judge_at("http://a"), judging.judge_at("http://a"), judging.judge_at("http://b")]

    first, again, other = asyncio.run(judges())
    assert first is again
    assert first is not other
    assert asyncio.run(judges())[0] is not first


def test_canonical():
    assert canonical((1.0, True, [2.5, (3,)])) == canonical([1, 1, [2.5, [3]]]) == "[1, 1, [2.5, [3]]]"
    assert canonical({2: "b", "1": None}) == '{"1": null, "2": "b"}'
    assert canonical(10.0**20) == canonical(10**20)
    assert canonical(float("inf")) == "Infinity"
    assert canonical("1") != canonical(1)


@pytest.mark.parametrize("code", ["-" * 100_000 + "1", "x" + ".a" * 100_000, "[" * 300, "1" * 10_000, "é = '\x0c'"])
def test_no_source_brings_the_parser_down(code):
    problem = syntax_problem(code)
    assert problem is None or "Error" in problem


FUTURE = "from __future__ import annotations"


@pytest.mark.parametrize(
    "code",
    [
        f"{FUTURE}\nx = {'1 + ' * 1000}1\nprint('é')\n",
        f"'''döc'''; {FUTURE}; {FUTURE}; print('é')",
        "'''doc'''\r\nfrom __future__ import (\r\n  annotations,\r\n  division,\r\n)  # why\r\nprint('é')\r\n",
        f"# \f\n{FUTURE}\n\n{FUTURE}\nprint('é')",
        "'''Prints.\n\n\tÉ.'''\nprint('é')",
    ],
)
def test_future_imports_come_first_and_docstring_and_rest_stay_as_they_are(code):
    assert syntax_problem(code) is None
    source = stdin_program(code + "\nprint(repr(__doc__))")
    expected = f"é\n{ast.get_docstring(ast.parse(code), clean=False)!r}\n"
    assert subprocess.check_output([sys.executable, "-X", "utf8", "-c", source]).decode() == expected


def test_the_tests_of_few_programs_are_in_memory_at_a_time(url, monkeypatch):
    """A step's thousands of rewards begin together, and LiveCodeBench's tests are tens of megabytes a problem."""
    from verl_cleaner.reward import code

    now = most = 0

    async def counted(program, cases, **options):
        nonlocal now, most
        now += 1
        most = max(most, now)
        result = await score_code(program, cases, **options)
        now -= 1
        return result

    monkeypatch.setattr(code, "score_code", counted)
    monkeypatch.setattr(judging, "_PROGRAMS", 3)
    truth = {"inputs": [""], "outputs": ["1"]}
    found = rewards(url, [("train-code-taco", "print(1)", truth)] * 12)
    assert [result["score"] for result in found] == [1.0] * 12
    assert most == 3
