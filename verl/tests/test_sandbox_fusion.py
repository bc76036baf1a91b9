"""Stock VeRL's own client of SandboxFusion and its reward, against our judge's `/run_code`."""

import base64
import json
import logging
import threading

import httpx
import pytest
from live_judge import live_judge
from verl.utils.reward_score.sandbox_fusion import compute_score
from verl.utils.reward_score.sandbox_fusion.utils import call_sandbox_api, check_correctness

SUM = "a, b = map(int, input().split())\nprint(a + b)"
TESTS = {"inputs": ["1 2", "3 4", "5 6"], "outputs": ["3", "7\n", "11"]}
CHECK = {"inputs": [""], "outputs": [None]}
ADD = {"fn_name": "plus", "inputs": ["1\n2", "3\n4"], "outputs": ["3", "7"]}


@pytest.fixture(scope="module")
def url():
    with live_judge(MAX_EXECUTION_TIME=10, MAX_MEMORY=256, MAX_WORKERS=8, CPP_COMPILE_TIME=10) as it:
        yield it + "/run_code"


def correct(url, program, tests=TESTS, **options):
    results, metadata = check_correctness(url, tests, program, timeout=2, memory_limit_mb=256, **options)
    return results, [entry["status"] for entry in metadata]


@pytest.mark.parametrize(
    ("program", "tests", "results", "status"),
    [
        (SUM, TESTS, [True] * 3, "success"),
        ("print(3)", TESTS, [True, False, False], "wrong_answer"),
        ("1/0", TESTS, [-2] * 3, "runtime_error"),
        ("import sys; sys.exit(3)", TESTS, [-2] * 3, "runtime_error"),
        ("import os; os.kill(os.getpid(), 9)", TESTS, [-2] * 3, "runtime_error"),
        ("x = bytearray(1 << 30); print(3)", TESTS, [-2] * 3, "runtime_error"),
        ("while True: pass", {"inputs": [""], "outputs": [""]}, [-3], "timeout"),
        ("def plus(a, b): return a + b", ADD, [True] * 2, "success"),
        ("class Solution:\n    def plus(self, a, b): return a - b", ADD, [False] * 2, "wrong_answer"),
        ("def f(x): return x", CHECK | {"assert_case": ["assert f(1) == 1"]}, [True], "success"),
        ("def f(x): return x", CHECK | {"assert_case": ["assert f(1) == 2"]}, [-2], "runtime_error"),
    ],
)  # fmt: skip
def test_results_are_those_of_sandbox_fusion(url, program, tests, results, status):
    found, statuses = correct(url, program, tests)
    assert (found, statuses[-1]) == (results, status)


def test_cpp(url):
    source = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"
    assert correct(url, source, language="cpp")[0] == [True] * 3
    assert correct(url, "int main() { return x; }", language="cpp") == ([-4] * 3, ["compile_error"] * 3)


def test_the_reward(url):
    completion = "Here:\n```python\n{}\n```"
    semaphore = threading.Semaphore(2)
    score, metadata = compute_score(url, semaphore, 1024, completion.format(SUM), json.dumps(TESTS))
    assert (score, len(metadata)) == (1.0, 3)
    score, metadata = compute_score(url, semaphore, 1024, completion.format("print(7)"), TESTS, continuous=True)
    assert score == pytest.approx(1 / 3)
    assert [entry["stdout"] for entry in metadata] == ["7\n"] * 3
    assert [entry["exit_code"] for entry in metadata] == [0] * 3


def test_a_long_output_comes_whole(url):
    """That client compares it itself; the judge's own endpoints return 1,000 characters."""
    tests = {"inputs": [""], "outputs": ["x" * 200_000 + "y"]}
    assert correct(url, "print('x' * 200_000 + 'y')", tests)[0] == [True]
    assert correct(url, "print('x' * 200_000 + 'z')", tests)[0] == [False]


def test_a_reply_has_sandbox_fusions_keys(url):
    reply, error = call_sandbox_api(url, "import sys; print(1); print(2, file=sys.stderr)", None, 5, 5, 256)
    assert error is None
    seconds = reply["run_result"].pop("execution_time")
    assert 0 < seconds < 5
    assert reply == {
        "status": "Success",
        "message": "",
        "compile_result": None,
        "run_result": {"status": "Finished", "return_code": 0, "stdout": "1\n", "stderr": "2\n"},
        "executor_pod_name": None,
        "files": {},
    }


def test_a_requests_limits_hold_below_the_services(url):
    slow = {"code": "import time; time.sleep(1)", "language": "python", "run_timeout": 0.3}
    reply = httpx.post(url, json=slow, timeout=30).json()
    assert (reply["status"], reply["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    assert reply["run_result"]["return_code"] is None
    large = {"code": "import time; x = bytearray(100 << 20); time.sleep(0.6)", "language": "python"}
    answers = [
        httpx.post(url, json=large | {"memory_limit_MB": memory}, timeout=30).json()["run_result"]["return_code"]
        for memory in (64, 200, 4096, -1)
    ]
    assert answers == [-9, 0, 0, 0]


def test_files_in_and_out(url):
    """As SandboxFusion does: one without content is none, and one that is not there is left out."""
    source = "open('out/b', 'wb').write(open('in/a', 'rb').read() * 2)"
    sent = {"in/a": base64.b64encode(b"\xff\n").decode(), "out/empty": "", "none": None}
    body = {"code": source, "language": "python", "files": sent, "fetch_files": ["out/b", "none", "in/a"]}
    reply = httpx.post(url, json=body).json()
    files = {name: base64.b64decode(content) for name, content in reply["files"].items()}
    assert (reply["status"], files) == ("Success", {"out/b": b"\xff\n\xff\n", "in/a": b"\xff\n"})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"language": "rust"}, "'python' or 'cpp'"),
        ({"files": {"../a.txt": base64.b64encode(b"x").decode()}}, "below the program's folder"),
        ({"files": {"a.txt": "no base64!"}}, "base64"),
        ({"fetch_files": ["/etc/passwd"]}, "below the program's folder"),
        ({"run_timeout": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_done_is_refused(url, more, message):
    reply = httpx.post(url, json={"code": "print(1)", "language": "python"} | more)
    assert reply.status_code == 422
    assert message in reply.text


def test_an_outage_is_tried_again_by_its_client(caplog):
    """A queue timeout is a 504, the only status that it does not take for an answer."""
    caplog.set_level(logging.WARNING)
    with live_judge(MAX_EXECUTION_TIME=10, MAX_WORKERS=1, MAX_QUEUE_WORK_LIFE_TIME=0.5) as it:
        blocking = {"type": "python", "solution": "import time; time.sleep(1.2)"}
        thread = threading.Thread(target=httpx.post, args=(it + "/run",), kwargs={"json": blocking, "timeout": 30})
        thread.start()
        while httpx.get(it + "/status?extra=1").json()["busy"] == 0:
            pass
        reply, error = call_sandbox_api(it + "/run_code", "print(1)", None, 5, 5, 256)
        thread.join()
    assert (error, reply["run_result"]["stdout"]) == (None, "1\n")
    assert "Gateway Timeout (504)" in caplog.text
