"""The code interpreter tool against a real judge: what the model reads, and the outcome as data."""

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from verl.tools.schemas import OpenAIFunctionToolSchema

from code_judge.client import DEFAULT_URL, judge_url
from verl_cleaner.rollout.code_interpreter import CodeInterpreter
from verl_cleaner.rollout.tools.contract import contract_of
from verl_cleaner.rollout.tools.verdict import of_exception
from verl_cleaner.saar.outcome import InfrastructureError, ToolOutcome

SCHEMA = OpenAIFunctionToolSchema.model_validate(
    {
        "type": "function",
        "function": {
            "name": "code_interpreter",
            "description": "Run Python.",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        },
    }
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "code_judge.cli", "serve", "--port", "0", "--parent-pid", str(os.getpid())]
    environment = {**os.environ, "MAX_EXECUTION_TIME": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        yield process.stdout.readline().split()[-1]
        process.terminate()


def execute(url: str, parameters: Any, **config: Any) -> tuple[str, dict[str, Any]]:
    async def call() -> tuple[str, dict[str, Any]]:
        tool = CodeInterpreter({"url": url, "deadline": 30, **config}, SCHEMA)
        response, reward, extra = await tool.execute("instance", parameters)
        assert reward == 0.0
        await tool.client.close()
        return str(response.text), extra

    return asyncio.run(call())


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("print('a')\nprint('b')", "a\nb", None),
        ("x = 6\nx * 7", "42", None),
        ("x = 1", "", None),
        ("print('a')\n1/0", "a\nZeroDivisionError at line 2: division by zero", "ZeroDivisionError"),
        ("x = y", "NameError at line 1: name 'y' is not defined", "NameError"),
        ("assert False", "AssertionError at line 1", "AssertionError"),
        ("raise ValueError('two\\nlines')", "ValueError at line 1: two\nlines", "ValueError"),
        ("import json\njson.loads('{')", "JSONDecodeError at line 2: Expecting property name", "JSONDecodeError"),
        ("raise ValueError('x' * 9000)", "ValueError at line 1", "ValueError"),
        ("print('a' * 700, 'b' * 700)", "a" * 500 + "\n[402 characters left out]\n" + "b" * 499, None),
        ("def f(:", "SyntaxError at line 1: invalid syntax", "SyntaxError"),
        ("while True: pass", "timeout", "timeout"),
        ("import sys; sys.exit(2)", "nonzero_exit", "nonzero_exit"),
        ("import sys; sys.exit('no file')", "stderr:\nno file\nnonzero_exit", "nonzero_exit"),
        ("import os; os.abort()", "nonzero_exit: killed by signal 6 (SIGABRT)", "nonzero_exit"),
        ("try: 1/0\nexcept Exception: __import__('traceback').print_exc()", "stderr:\nTraceback", None),
        ("raise ExceptionGroup('g', [ValueError('a')])", "ExceptionGroup at line 1: g (1 sub-exc", "ExceptionGroup"),
        ("```python\nx = 6\nprint(x)\n```", "6", None),
        ("print('{\"kind\": \"ok\"}\\nok')\nraise KeyError('k')", None, "KeyError"),
    ],
)
def test_outcomes(url: str, code: str, text: str | None, kind: str | None) -> None:
    reply, extra = execute(url, {"code": code})
    assert extra == {"outcome": ToolOutcome(kind)}
    assert text is None or reply.startswith(text)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        (["code"], "arguments must be an object"),
        (None, "arguments must be an object, got null"),
        ({}, "argument 'code' is missing"),
        ({"code": 3}, "argument 'code' must be a string, got int"),
        ({"code": "1", "lang": "c"}, "unknown argument 'lang'"),
        ({"code": "print('\ud800')"}, "code is not valid Unicode"),
    ],
)
def test_a_malformed_call_is_the_models_fault_and_never_sent(parameters: Any, problem: str) -> None:
    reply, extra = execute("http://127.0.0.1:9", parameters, deadline=1)
    assert extra == {"outcome": ToolOutcome.fault("malformed_call")}
    assert reply.startswith(f"Invalid tool call: {problem}")


def test_an_unreachable_judge_is_our_fault() -> None:
    with pytest.raises(InfrastructureError, match=r"code-judge at http://127\.0\.0\.1:9 gave no verdict in 0\.3 s"):
        execute("http://127.0.0.1:9", {"code": "1"}, deadline=0.3)


def test_a_bug_of_ours_is_handed_on_not_shown() -> None:
    contract = contract_of(CodeInterpreter({}, SCHEMA), {})
    assert of_exception(RuntimeError("bug"), contract, arguments_fit=True) == "stop"
    assert of_exception(InfrastructureError("judge"), contract, arguments_fit=True) == "outage"


def test_echo_can_be_switched_off(url: str) -> None:
    assert execute(url, {"code": "1 + 1"}, echo_last_expression=False)[0] == ""


def test_where_the_judge_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODE_JUDGE_URL", raising=False)
    assert judge_url() == DEFAULT_URL
    monkeypatch.setenv("CODE_JUDGE_URL", "http://h:1")
    assert judge_url(None) == "http://h:1"
    assert judge_url("http://k:2") == "http://k:2"
