"""The contract over HTTP that existing clients depend on."""

import json
import time

import pytest
from judge_harness import Judge, judge

HELLO = 'print("hello world")'
JUDGE_KEYS = {"sub_id", "success", "run_success", "cost", "reason", "kind", "line", "exit_code"}
"""The harness asks for the extra keys; see test_public_contract.py."""
ALL_PATHS = ["/judge", "/run", "/judge/batch", "/run/batch", "/judge/long-batch", "/run/long-batch"]


def test_ping_and_status(served: Judge) -> None:
    assert served.http.get("/ping").json() == "pong"
    status = served.http.get("/status").json()
    assert status["queue"] == 0
    assert status["num_workers"] == 8


def test_the_documented_curl(served: Judge) -> None:
    body = '{"type":"python","solution":"print(\\"hello world\\")","expected_output":"hello world\\n"}'
    reply = served.http.post("/judge", content=body, headers={"Content-Type": "application/json"})
    result = reply.json()
    assert set(result) == JUDGE_KEYS
    assert result["success"] is True
    assert result["run_success"] is True
    assert result["reason"] == ""
    assert 0 < result["cost"] < 2


@pytest.mark.parametrize(
    ("solution", "expected", "success", "run_success"),
    [
        (HELLO, None, True, True),
        (HELLO, "hello world", True, True),
        (HELLO, "\n  hello world \n\n", True, True),
        (HELLO, "hello", False, True),
        (HELLO, "", False, True),
        ("pass", "", True, True),
        (HELLO + "; raise SystemExit(3)", "hello world", False, False),
        ("1/0", None, False, False),
        ("import sys; print('x'); sys.exit()", "x", True, True),
        ("x = (", None, False, False),
        ("", "", True, True),
    ],
)
def test_success(served: Judge, solution: str, expected: str | None, success: bool, run_success: bool) -> None:
    result = served.post("/judge", type="python", solution=solution, expected_output=expected)
    assert (result["success"], result["run_success"]) == (success, run_success)
    assert result["reason"] == ""


def test_run_adds_the_output(served: Judge) -> None:
    result = served.run("import sys; print(input().upper()); print('err', file=sys.stderr)", input="abc\n", sub_id="7")
    assert JUDGE_KEYS | {"stdout", "stderr"} <= set(result)
    assert (result["stdout"], result["stderr"], result["sub_id"]) == ("ABC\n", "err\n", "7")


def test_missing_input_is_an_empty_stdin(served: Judge) -> None:
    assert served.run("import sys; print(repr(sys.stdin.read()))")["stdout"] == "''\n"


@pytest.mark.parametrize("path", [path for path in ALL_PATHS if "batch" in path])
def test_batches_keep_the_order_and_repeated_ids(served: Judge, path: str) -> None:
    """Later submissions end first; sub_ids repeat, as naive clients let them."""
    submissions = [
        {
            "type": "python",
            "solution": f"import time; time.sleep({(9 - i) / 50}); print({i})",
            "expected_output": str(i),
            "sub_id": str(i % 3),
        }
        for i in range(10)
    ]
    reply = served.post(path, type="batch", sub_id="the batch", submissions=submissions)
    assert reply["sub_id"] == "the batch"
    assert [result["sub_id"] for result in reply["results"]] == [str(i % 3) for i in range(10)]
    assert all(result["success"] for result in reply["results"])
    if path.startswith("/run"):
        assert [result["stdout"] for result in reply["results"]] == [f"{i}\n" for i in range(10)]
    else:
        assert set(reply["results"][0]) == JUDGE_KEYS


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "ruby", "solution": ""},
        {"type": "python"},
        {"type": "python", "solution": 3},
        {"type": "python", "solution": "", "input": ["x"]},
        {"type": "python", "solution": "\ud800"},
        {"type": "python", "solution": "", "sub_id": "\udfff"},
        [],
    ],
)
def test_what_does_not_fit_is_422(served: Judge, body: object) -> None:
    content = json.dumps(body)
    assert served.http.post("/run", content=content).status_code == 422
    batch = f'{{"type": "batch", "submissions": [{content}]}}'
    assert served.http.post("/run/batch", content=batch).status_code == 422


@pytest.mark.parametrize(
    "body",
    [{"type": "batch", "submissions": []}, {"type": "batch"}, {"submissions": [{"type": "python"}]}, {"type": "x"}],
)
def test_an_empty_or_mistyped_batch_is_422(served: Judge, body: dict[str, object]) -> None:
    assert served.http.post("/judge/long-batch", json=body).status_code == 422


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"type": "python", "solution": "\xc3"}'])
@pytest.mark.parametrize("path", ["/run", "/judge/batch"])
def test_what_is_not_json_is_a_client_error(served: Judge, path: str, content: bytes) -> None:
    assert served.http.post(path, content=content).status_code in (400, 422)


def test_a_body_over_the_limit_is_413() -> None:
    body = json.dumps({"type": "python", "solution": "#" * 5000}).encode()
    with judge(MAX_BODY_SIZE=4096) as it:
        reply = it.http.post("/run", content=body)
        assert reply.status_code == 413
        assert "MAX_BODY_SIZE" in reply.json()["detail"]
        # Without a length, in chunks, the limit holds as well.
        assert it.http.post("/run", content=iter([body[:3000], body[3000:]])).status_code == 413
        assert it.run(HELLO)["success"]


@pytest.mark.alone
def test_a_job_that_is_not_started_in_time_is_a_queue_timeout() -> None:
    with judge(MAX_WORKERS=1, MAX_EXECUTION_TIME=3, MAX_QUEUE_WORK_LIFE_TIME=0.5) as it:
        start = time.monotonic()
        results = it.run_all(["import time; time.sleep(1.5); print(1)", "print(2)"], path="/run/batch")
        assert [result["reason"] for result in results] == ["", "queue_timeout"]
        assert results[0]["stdout"] == "1\n"
        assert time.monotonic() - start < 3
        # A long batch waits for as long as it takes.
        results = it.run_all(["import time; time.sleep(1.5)", "print(2)"])
        assert [result["reason"] for result in results] == ["", ""]


def test_a_long_output_can_be_cut_in_the_middle(served: Judge) -> None:
    solution = "print('a' * 3000 + 'b' * 3000, end='')"
    assert served.run(solution)["stdout"] == "a" * 1000
    result = served.run(solution, options={"cut_middle": True}, expected_output="a" * 3000 + "b" * 3000)
    assert result["stdout"] == "a" * 500 + "\n[5000 characters left out]\n" + "b" * 500
    assert result["success"] is True
