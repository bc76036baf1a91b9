"""What the policy reads of its program, against Python's own messages: each program runs here, without a judge."""

import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from code_judge.wire import RunResult
from verl_cleaner.rollout.interpreter_text import MESSAGE_LENGTH, STDERR_LENGTH, program_of, response_text

JSON_ERROR = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"


def run(code: str, kind: str, *, line: int | None = None, length: int = 1000) -> str:
    """The text for a program that ends with `kind`; the judge keeps the last `length` characters of stderr."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    stderr = done.stderr[-length:]
    if done.returncode < 0:
        stderr += f"killed by signal {-done.returncode}\n"
    succeeded = done.returncode == 0
    assert succeeded == (kind == "ok"), done
    return response_text(
        RunResult(
            sub_id=None, success=succeeded, run_success=succeeded, cost=0.0, reason="", stdout=done.stdout,
            stderr=stderr, kind=kind, line=line,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("print(1)", "ok", "1"),
        ("print(1); 1/0", "ZeroDivisionError", "1\nZeroDivisionError: division by zero"),
        ("import sys; print(1); sys.exit('no such file')", "nonzero_exit", "1\nstderr:\nno such file\nnonzero_exit"),
        ("import os; os.abort()", "nonzero_exit", "nonzero_exit: killed by signal 6 (SIGABRT)"),
        (
            "import sys, os; print('half', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
            "nonzero_exit",
            "stderr:\nhalf\nnonzero_exit: killed by signal 9 (SIGKILL)",
        ),
        (
            "import logging; logging.error('bad'); x = y",
            "NameError",
            "stderr:\nERROR:root:bad\nNameError: name 'y' is not defined",
        ),
        ("def f(:", "SyntaxError", "SyntaxError: invalid syntax"),
        ("raise ValueError('two\\nlines')", "ValueError", "ValueError: two\nlines"),
        ("raise ValueError", "ValueError", "ValueError"),
        ("import json; json.loads('{')", "JSONDecodeError", f"JSONDecodeError: {JSON_ERROR}"),
    ],
)
def test_what_the_policy_reads(code: str, kind: str, text: str) -> None:
    assert run(code, kind) == text


def test_an_error_that_the_program_printed_itself() -> None:
    code = """
        import traceback
        try:
            {}["key"]
        except KeyError:
            traceback.print_exc()
    """
    text = run(code, "ok")
    assert text.startswith("stderr:\nTraceback (most recent call last):")
    assert text.endswith("KeyError: 'key'")


def test_it_stays_beside_the_one_that_ended_it() -> None:
    code = """
        import traceback
        try:
            {}["key"]
        except KeyError:
            traceback.print_exc()
        print([][3])
    """
    text = run(code, "IndexError")
    assert text.count("KeyError: 'key'") == 1
    assert text.endswith("KeyError: 'key'\nIndexError: list index out of range")


@pytest.mark.parametrize("link", ["raise RuntimeError('late') from error", "raise RuntimeError('late')"])
def test_exceptions_that_led_to_it_are_no_text_of_the_programs(link: str) -> None:
    code = f"""
        import sys
        print("mine", file=sys.stderr)
        def deep():
            try:
                {{}}["key"]
            except KeyError as error:
                {link}
        try:
            deep()
        except RuntimeError as error:
            raise ValueError("last") from error
    """
    assert run(code, "ValueError") == "stderr:\nmine\nValueError: last"


def test_unittest() -> None:
    code = """
        import unittest
        class T(unittest.TestCase):
            def test(self):
                self.assertEqual(1, 2)
        unittest.main()
    """
    text = run(code, "nonzero_exit")
    assert "AssertionError: 1 != 2" in text
    assert "FAILED (failures=1)" in text
    assert text.endswith("nonzero_exit")


def test_members_of_a_group() -> None:
    code = """
        import sys
        print("mine", file=sys.stderr)
        def fail(error):
            try:
                raise error
            except Exception as raised:
                return raised
        inner = ExceptionGroup("inner", [fail(KeyError("three"))])
        raise ExceptionGroup("outer", [fail(ValueError("one")), fail(TypeError("two")), inner])
    """
    text = run(code, "ExceptionGroup", line=8, length=5000)
    assert text == (
        "stderr:\nmine\n"
        "ExceptionGroup at line 8: outer (3 sub-exceptions)\n- ValueError: one\n- TypeError: two\n"
        "- ExceptionGroup: inner (1 sub-exception)\n- KeyError: 'three'"
    )


def test_a_class_of_a_function() -> None:
    code = """
        def f():
            class Odd(Exception):
                pass
            raise Odd("here")
        f()
    """
    assert run(code, "Odd") == "Odd: here"


@pytest.mark.parametrize("length", [100, 300, 1000])
def test_it_is_bounded(length: int) -> None:
    code = "import sys\nprint('e' * 5000, file=sys.stderr)\nraise ValueError('m' * 5000)"
    text = run(code, "ValueError", length=length)
    assert text.startswith("ValueError: ...mmm")
    assert len(text) <= MESSAGE_LENGTH + 60
    text = run("import sys\nprint('e' * 5000, file=sys.stderr)\nsys.exit(3)", "nonzero_exit", length=length)
    assert "eee" in text
    assert len(text) <= STDERR_LENGTH + 60


@given(st.text(), st.sampled_from(["ok", "ValueError", "ExceptionGroup", "nonzero_exit", "timeout"]))
def test_whatever_a_program_prints(stderr: str, kind: str) -> None:
    result = RunResult(
        sub_id=None,
        success=False,
        run_success=kind == "ok",
        cost=0.0,
        reason="",
        stdout="out",
        stderr=stderr,
        kind=kind,
    )
    text = response_text(result)
    assert text.startswith("out")
    assert kind == "ok" or kind in text


PROGRAM = "x = 1\nprint(x)"


@pytest.mark.parametrize(
    ("argument", "program"),
    [
        (PROGRAM, PROGRAM),
        (f"```python\n{PROGRAM}\n```", PROGRAM),
        (f"```py\n{PROGRAM}\n```\n", PROGRAM),
        (f"```\n{PROGRAM}\n```", PROGRAM),
        (f"```python\n{PROGRAM}", PROGRAM),
        (f"  ```python\n{PROGRAM}\n  ```", PROGRAM),
        (f"Let us see.\n```python\n{PROGRAM}\n```\nThat prints 1.", PROGRAM),
        ("```python\nx = 1\n```\nand then\n```python\nprint(x)\n```", PROGRAM),
        ('text = """\n```python\nx\n```\n"""', 'text = """\n```python\nx\n```\n"""'),
        ("print('```')", "print('```')"),
        ("print('```'", "print('```'"),
        ("```python\ndef f(:\n```", "def f(:"),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_a_fenced_block_is_the_program_it_holds(argument: str, program: str) -> None:
    assert program_of(argument) == program
