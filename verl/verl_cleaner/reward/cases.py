"""The tests in a code row's ground truth, as the judge takes them.

    {inputs, outputs}                             stdin and stdout, TACO and LiveCodeBench
    {inputs, outputs, fn_name}                    calls of a function; a test's inputs are a list of arguments (TACO)
                                                  or a text with a line of JSON each (LiveCodeBench)
    {entry_point, import_prefix, test_code}       LeetCode and HumanEval: one test, which calls `check(candidate)`

The object, inputs and outputs may also be stored as the text of a Python value. A ground truth without a single test is
an error of the data, not of the answer.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from code_judge.wire import Case as Test
from code_judge.wire import Options, Submission
from verl_cleaner import stored
from verl_cleaner.reward.assertions import with_marks
from verl_cleaner.reward.programs import (
    arguments_text,
    canonical,
    check_program,
    function_program,
    stdin_program,
)

_TEXT, _LINES = Options(), Options(compare="lines")


@dataclass(frozen=True, slots=True)
class Case:
    """One test. expected: the outputs of which one must be printed. marks: characters that the program prints in their
    order, one for each assertion that holds and a dash for one that does not; empty where there is nothing to count."""

    stdin: str
    expected: tuple[str, ...]
    options: Options
    marks: str = ""

    @property
    def assertions(self) -> int:
        return len(self.marks) or 1

    def held(self, output: str) -> int:
        """Assertions that held in a run which failed."""
        return sum(mark == printed for mark, printed in zip(self.marks, output, strict=False))


@dataclass(frozen=True, slots=True)
class Cases:
    """program: the policy's code -> the source to run, the same for every case. All cases have the same options."""

    cases: tuple[Case, ...]
    program: Callable[[str], str]

    def submission(self, source: str, some: Sequence[Case], *, early_stop: bool) -> Submission:
        """The program with some of the cases."""
        return Submission(
            type="python",
            solution=source,
            tests=[Test(input=case.stdin, expected_output=list(case.expected)) for case in some],
            options=some[0].options.model_copy(update={"early_stop": early_stop}),
        )


def read_cases(ground_truth: str | dict[str, Any], *, where: str) -> Cases:
    """where: the row, for the message.

    Raises:
        ValueError: the ground truth is no JSON, of no known form, or without a test.
    """
    stored.allow_long_integers()
    place = f"{where}: reward_model.ground_truth"
    truth = _object(ground_truth, place)
    if "entry_point" in truth:
        return _check_cases(truth, place)
    if not {"inputs", "outputs"} <= set(truth):
        raise ValueError(
            f"{place} must have inputs and outputs, or entry_point and test_code, got the keys "
            f"{', '.join(sorted(truth))}"
        )
    inputs, outputs = stored.sequence(truth["inputs"]), stored.sequence(truth["outputs"])
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError(f"{place}: inputs and outputs must be lists of the same length, got {_sizes(inputs, outputs)}")
    if not inputs:
        raise ValueError(f"{place}: inputs is empty, expected at least one test; drop the row")
    name = truth.get("fn_name")
    if name:
        cases = tuple(_call(i, o, f"{place}: test {n}") for n, (i, o) in enumerate(zip(inputs, outputs, strict=True)))
        return Cases(cases, lambda code: function_program(code, str(name)))
    cases = tuple(
        Case(_text(i, f"{place}: inputs[{n}]"), (_text(o, f"{place}: outputs[{n}]"),), _LINES)
        for n, (i, o) in enumerate(zip(inputs, outputs, strict=True))
    )
    return Cases(cases, stdin_program)


def _object(ground_truth: str | dict[str, Any], place: str) -> dict[str, Any]:
    if isinstance(ground_truth, str):
        try:
            ground_truth = stored.value(ground_truth)
        except ValueError as error:
            raise ValueError(f"{place} is not JSON ({error}), got {str(ground_truth)[:80]!r}") from None
    if not isinstance(ground_truth, dict):
        raise ValueError(f"{place} must be a JSON object, got {json.dumps(ground_truth)[:80]}")
    return ground_truth


def _check_cases(truth: dict[str, Any], place: str) -> Cases:
    prefix, test = str(truth.get("import_prefix") or ""), str(truth.get("test_code") or "")
    if "def check(" not in test:
        raise ValueError(f"{place}: test_code must define check(candidate), got {test[:80]!r}")
    try:
        test, assertions = with_marks(test)
    except SyntaxError as error:
        raise ValueError(f"{place}: test_code is not Python ({error}), got {test[:80]!r}") from None
    # Unknown to the code beforehand; the word shows that the check came to its end.
    word, marks = secrets.token_hex(16), secrets.token_hex(assertions)[:assertions]
    entry_point = str(truth["entry_point"])
    return Cases(
        (Case(f"{word}\n{marks}\n", (marks + word,), _TEXT, marks),),
        lambda code: check_program(code, prefix=prefix, test=test, entry_point=entry_point),
    )


def _call(arguments: Any, output: Any, place: str) -> Case:
    try:
        if isinstance(arguments, tuple):
            arguments = list(arguments)
        if isinstance(arguments, str):
            arguments = [json.loads(line) for line in arguments.split("\n") if line.strip()]
            expected: tuple[Any, ...] = (json.loads(output),)
        else:
            # TACO wraps some return values into a list of one.
            expected = (output[0], output) if isinstance(output, list) and len(output) == 1 else (output,)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: arguments and result must be JSON: {error}") from None
    if not isinstance(arguments, list):
        raise ValueError(f"{place}: inputs must be a list of arguments, got {json.dumps(arguments)[:80]}")
    return Case(arguments_text(arguments), tuple(dict.fromkeys(map(canonical, expected))), _TEXT)


def _text(value: Any, place: str) -> str:
    """Some rows have a list of lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{place} must be a text or a list of lines, got {json.dumps(value)[:80]}")
    return value


def _sizes(*values: Any) -> str:
    return " and ".join(f"{len(v)} entries" if isinstance(v, list) else type(v).__name__ for v in values)
