"""When an output is the expected one, and that a submission chooses how it is compared."""

import pytest

from code_judge.compare import same_lines
from code_judge.verdict import verdict
from code_judge.wire import Options, Submission


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1 2 \n 3", "1 2\n3", True),
        ("1\n\n2", "1\n2", False),
        ("1 2\n3", "1\n2 3", False),
        ("1.0  2e0", "1 2", True),
        ("50000000000000001", "50000000000000000", False),
        ("0.1", "0.10000000001", False),
        ("yes 1.0", "yes 1", False),
        ("Yes", "yes", False),
        ("nan", "nan", True),
        ("nan 1", "nan 1.0", False),
        ("sNaN 1", "1 1", False),
        ("1e999999999", "1", False),
        ("", "\n", True),
        ("1", "", False),
    ],
)
def test_same_lines(output: str, expected: str, same: bool) -> None:
    assert same_lines(output, expected) is same


@pytest.mark.parametrize(("compare", "success"), [("text", False), ("lines", True)])
def test_a_submission_chooses(compare: str, success: bool) -> None:
    from code_judge.sandbox.pool import Execution

    execution = Execution(status=0, why=None, stdout="1.0 \n2", stderr="", seconds=0.1, exception=None, line=None)
    options = Options.model_validate({"compare": compare})
    submission = Submission(type="python", solution="", options=options)
    assert verdict(submission, execution, 1000, memory=256, expected=["1\n2"]).success is success
