"""Rewards of short answers, as a table: what is given, what it scores, and why."""

import asyncio
import time

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_cleaner.reward import choice, mathematics
from verl_cleaner.reward.answers import last_boxed, last_python_block
from verl_cleaner.reward.notation import latex
from verl_cleaner.reward.own_words import own_words
from verl_cleaner.reward.router import compute_score
from verl_cleaner.reward.truths import accepted
from verl_cleaner.reward.verifier import MathVerifier
from verl_cleaner.saar.outcome import InfrastructureError

KEYS = ["score", "acc", "verified", "pred", "tests", "passed", "share", "reason"]

# (response, ground truth, strict, math-verify, why)
MATH = [
    (r"so \boxed{42}", "42", 1, 1, "the plain case"),
    (r"\boxed{41} or rather \boxed{42}", "42", 1, 1, "the last box is the answer"),
    (r"\boxed{42} or rather \boxed{41}", "42", 0, 0, "also where an earlier one was right"),
    (r"\boxed{ 42 }", "42", 0, 1, "strict: blanks count, as in the published training"),
    (r"\boxed{042}", "42", 0, 1, "strict: leading zeros count"),
    (r"\boxed{1,000}", "1000", 0, 1, "strict: separators count"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", 1, 1, "braces inside the box are balanced"),
    (r"\boxed{\frac12}", r"\frac{1}{2}", 0, 1, "two spellings of a fraction"),
    (r"\boxed{0.5}", r"\frac{1}{2}", 0, 1, "decimal against fraction"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}", 1, 1, "escaped braces are printed, not structure"),
    (r"\boxed{\text{42}}", "42", 0, 1, "strict: markup counts"),
    (r"\boxed{x=42}", "42", 0, 1, "strict: an equation is not its right side"),
    (r"\boxed{43}", "42", 0, 0, "wrong"),
    (r"\boxed{}", "42", 0, 0, "an empty box is an answer, and wrong"),
    (r"\boxed{42", "42", None, None, "a box that is not closed is none: the response was cut off"),
    (r"\boxed{42} and \boxed{4", "42", None, None, "the last box decides, also where it was cut off"),
    ("the answer is 42", "42", None, None, "no box, no answer"),
    ("", "42", None, None, "an empty response"),
    ("<tool_response>\n\\boxed{42}\n</tool_response>", "42", None, None, "a tool's output is no answer"),
    ("\\boxed{42} <tool_response>\n42\n</tool_response> done", "42", 1, 1, "the whole response counts"),
    ("\\boxed{42} <tool_response>\n\\boxed{41}\n</tool_response> so", "42", 1, 1, "but not what a tool printed"),
    ("a <tool_response>\n</tool_response>\n\\boxed{42}\n</tool_response> b", "42", None, None, "nor its end mark"),
    ("a <tool_response>\n\\boxed{42}", "42", None, None, "a tool response that was cut off"),
    ('\\boxed{42} <tool_call>print("\\boxed{41}")', "42", 1, 1, "nor a call, be it answered or not"),
    ('<tool_call>"\\boxed{41}"</tool_call> \\boxed{42}', "42", 1, 1, "what follows a call counts"),
    ("<tool_response>\n41\n</tool_response> \\boxed{42}", "42", 1, 1, "after the tool"),
    (r"\boxed{" + "1+" * 1500 + "1}", "1501", 0, 0, "what is too long to be read is not equal"),
    (r"\boxed{\frac{1}{}", "42", None, None, "unbalanced"),
    (r"\boxed{}}", "", 1, 1, "closed by the first brace that fits"),
]
# (response, ground truth, strict, lenient, why)
CHOICE = [
    (r"\boxed{B}", "B", 1, 1, "the letter"),
    (r"\boxed{\text{B}}", "B", 0, 1, "strict: markup counts"),
    (r"\boxed{b}", "B", 0, 1, "strict: case counts"),
    (r"\boxed{(B)}", "B", 0, 1, "strict: parentheses count"),
    (r"\boxed{B. 42 m/s}", "B", 0, 1, "letter and text"),
    (r"\boxed{\mathrm{C}}", "B", 0, 0, "another letter"),
    (r"\boxed{Because}", "B", 0, 0, "a word is no letter"),
    (r"\boxed{B or C}", "B", 0, 0, "neither is a choice of two"),
    (r"\boxed{42 m/s}", "B", 0, 0, "the choice's content is not its letter"),
    ("B", "B", None, None, "no box, no answer"),
]


def reward(source, response, truth, **options):
    result = asyncio.run(compute_score(source, response, truth, {"index": 7}, **options))
    assert list(result) == KEYS
    return result


def check(result, strict, lenient):
    expected = {"score": 1.0 if strict else -1.0, "acc": float(strict or 0), "verified": float(lenient or 0)}
    assert {key: result[key] for key in expected} == expected
    assert result["reason"] == ("no_answer" if strict is None else "" if strict else "wrong_answer")
    assert (result["tests"], result["passed"]) == (0.0, 0.0)


@pytest.mark.parametrize(("response", "truth", "strict", "lenient", "why"), MATH)
def test_math(response, truth, strict, lenient, why):
    check(reward("math_dapo", response, truth, math_verify=True), strict, lenient)


def test_without_math_verify_the_second_opinion_is_the_strict_one():
    result = reward("AIME2024", r"\boxed{1,000}", "1000")
    assert (result["acc"], result["verified"], result["pred"]) == (0.0, 0.0, "1,000")


@pytest.mark.parametrize(("response", "truth", "strict", "lenient", "why"), CHOICE)
def test_choice(response, truth, strict, lenient, why):
    check(reward("gpqa_diamond", response, truth), strict, lenient)


def test_letter():
    assert [choice.letter(text) for text in ("$B$", " D ", r"\text{(a)}", "", "AB")] == ["B", "D", "A", None, None]


def test_an_unknown_source_is_an_error_that_names_the_row():
    with pytest.raises(ValueError, match="row 7: data_source 'nowhere' is unknown"):
        reward("nowhere", "", "")


def test_reasoning_gym_keeps_its_own_verifier():
    entry = '{"question": "gcd", "answer": "12", "metadata": {}}'
    found = asyncio.run(compute_score("reasoning_gym/gcd", r"\boxed{12}", "12", {"entry": entry}))
    assert list(found) == KEYS
    assert (found["score"], found["acc"], found["pred"]) == (1.0, 1.0, "12")
    wrong = asyncio.run(compute_score("reasoning_gym/gcd", r"\boxed{13}", "12", {"entry": entry}))
    assert (wrong["score"], wrong["acc"], wrong["reason"]) == (0.0, 0.0, "wrong_answer")


@pytest.mark.alone
def test_the_limit_of_time_holds_off_the_main_thread_and_the_next_question_is_answered():
    """Signals, with which math-verify limits itself, would raise in this thread."""
    verifier = MathVerifier(seconds=1)

    async def ask():
        first = await verifier.verify("1,000", "1000")
        start = time.monotonic()
        endless = await verifier.verify("9^{9^{9^9}}", "42")
        return first, endless, time.monotonic() - start, await verifier.verify("0.5", r"\frac{1}{2}")

    async def elsewhere():
        return await asyncio.to_thread(asyncio.run, ask())

    first, endless, seconds, after = asyncio.run(elsewhere())
    verifier.close()
    assert (first, endless, after) == (True, False, True)
    assert 0.9 < seconds < 3


def test_a_verifier_that_dies_is_an_outage_not_a_wrong_answer():
    verifier = MathVerifier()

    async def ask():
        assert await verifier.verify("1", "1")
        verifier._child._process.kill()
        verifier._child._process.wait()
        with pytest.raises(InfrastructureError, match="ended while it compared '2'"):
            await verifier.verify("2", "2")
        assert await verifier.verify("3", "3")

    asyncio.run(ask())
    verifier.close()


@pytest.mark.parametrize(
    ("response", "code", "why"),
    [
        ("```python\na\n```", "a\n", "the plain case"),
        ("```python\na\n```\n```python\nb\n```", "b\n", "the last block"),
        ("```py\na\n```", "a\n", "other names of the language"),
        ("```Python3\na\n```", "a\n", "in any case"),
        ("```python\n```", "", "an empty program"),
        ("\ufeff```\nf()\n```", "f()\n", "a byte-order mark before the fence"),
        ("```python\nx = '\ufeff'  # </s>\n```", "x = '\ufeff'  # </s>\n", "marks and end tokens of the program's own"),
        ("```\na\n```", None, "a block of no language that does nothing is not a program"),
        ("```cpp\na\n```", None, "nor is one of another language"),
        ("```python\na\n", "a\n", "not closed"),
        ("```python\na\n```\n```python\nb(\n", "a\n", "a block cut off behind a complete one"),
        ("1. so\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b\n", "indented with its list item"),
        ("```python\nprint('```')\n```", "print('```')\n", "a fence inside a line does not close"),
        ("```python\na\n```\n<tool_response>\nx\n</tool_response>\ndone", None, "a program comes after the last tool"),
        ("<tool_response>\n```python\na\n```\n</tool_response>\n", None, "a tool's output is no program"),
        ("```python\na\n```\n<tool_call>\n```python\nb\n```\n", "a\n", "a call without an answer is no program"),
        ("``` python\r\na\r\n```\r\n", "a\r\n", "blanks and carriage returns"),
    ],
)
def test_the_program_of_a_response(response, code, why):
    assert last_python_block(own_words(response, {}).final) == code


def test_a_response_that_corrects_itself_in_another_box_is_right_by_the_strict_rule_alone():
    found = reward("math_dapo", r"\boxed{42}, or rather \fbox{41}", "42", math_verify=True)
    assert (found["score"], found["verified"]) == (1.0, 0.0)
    assert reward("gpqa_diamond", r"\boxed{B}, or rather \fbox{C}", "B")["verified"] == 0.0


@pytest.mark.parametrize("truth", [["42"], ["42", "43"], '["42"]', "['42', '43']", numpy.array(["42"])])
def test_a_truth_stored_as_a_list_means_its_entries(truth):
    assert [accepted(truth)[0], mathematics_score(r"\boxed{42}", truth).score] == ["42", 1.0]
    assert mathematics_score(r"\boxed{44}", truth).score == -1.0


@pytest.mark.parametrize("truth", ["[1, 2]", "[]", "[B]", "(0, 1)", '["', "['a', 1]", "f'(x)", 42])
def test_a_truth_that_only_looks_like_a_list_is_the_answer_itself(truth):
    assert accepted(truth) == (str(truth),)


def mathematics_score(response, truth):
    return asyncio.run(mathematics.score(response, truth))


DEGENERATE = (
    "```\n", "```python\n", "```python\n'''\n```\n", "```python\nx y\n```\n", "``` ", "~~~ ", "`", "```python\n# ```\n",
    "'\\", "<|im_end|>", " ", "\n", "B ", "B. ", "or ", "{", "\\text{", "**", "_", "\\quad", "√(", "1 000", "⁹", "1e",
)  # fmt: skip


@pytest.mark.alone
@pytest.mark.parametrize("text", DEGENERATE)
def test_no_degenerate_response_takes_long(text):
    """Rewards share an event loop. A pattern that reads a text twice for every character needs minutes here."""
    long, start = "```python\n" + text * (80_000 // len(text)), time.monotonic()
    last_python_block(long)
    choice.letter("B" + long)
    choice.letter("B" + text * (1900 // len(text)) + "x")
    latex(text * (2000 // len(text)) + "x")
    accepted('["' + long)
    assert time.monotonic() - start < 2


STATEMENTS = (
    "print(1)",
    "x = '```'",
    "# ```python",
    '"""\n```\nx\n```\n"""',
    "s = r'''\n~~~ \\d'''",
    "def f():\n    '```'\n    return 1",
    "f'{1}```'",
    "y = ~1",
    "z = '\\''  # it's ```",
    "if x:\n    '''\n```python\n'''",
    "",
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(STATEMENTS), max_size=6), st.sampled_from(("```", "````", "~~~")), st.booleans())
def test_a_program_is_found_whole_whatever_fences_its_strings_and_comments_hold(statements, fence, marked):
    code = "".join(f"{statement}\n" for statement in ["import os", *statements])
    response = f"So:\n{fence}{'python' if marked else ''}\n{code}{fence}\nThat is `all`, isn't it?\n"
    assert last_python_block(response) == code


def test_boxed_keeps_what_stands_there():
    assert last_boxed(r"\boxed{a \} b}") == r"a \} b"
    assert last_boxed(r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}") == r"\begin{pmatrix}1\\2\end{pmatrix}"
