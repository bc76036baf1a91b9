"""What travels over HTTP. Keys, reasons and endpoints are the contract that existing clients depend on."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from code_judge.attachments import Content, check_files, check_patterns

TIMEOUT_MARK = "Suicide from timeout."
"""What clients of the contract find at the end of stdout after a timeout."""


class Reason(StrEnum):
    """Why there is no verdict; empty where there is one."""

    NONE = ""
    WORKER_TIMEOUT = "worker_timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    INTERNAL_ERROR = "internal_error"
    INVALID_INPUT = "invalid_input"


OUTAGES = frozenset((Reason.QUEUE_TIMEOUT, Reason.INTERNAL_ERROR))
"""The service's failures, never the program's."""


class Options(BaseModel, frozen=True):
    """echo_last_expression: print the value of a last line that is an expression, as a notebook does. cut_middle: of an
    output that is too long, return beginning and end, instead of the beginning. compare: the output with the expected
    one as texts without surrounding blanks, or by `compare.same_lines`. early_stop: of several tests, return none after
    the first that fails."""

    echo_last_expression: bool = False
    cut_middle: bool = False
    compare: Literal["text", "lines"] = "text"
    early_stop: bool = False


class Limits(BaseModel, extra="forbid"):
    """Lower limits than the service's own; none is higher. seconds: as MAX_EXECUTION_TIME, CPU time and time that the
    program sleeps or waits for input. cpu: seconds of CPU time alone. memory: MB, as MAX_MEMORY. output: characters
    returned of stdout and of stderr, up to MAX_OUTPUT_SIZE, so it may be above MAX_STDOUT_ERROR_LENGTH."""

    seconds: float | None = Field(default=None, gt=0)
    cpu: float | None = Field(default=None, gt=0)
    memory: int | None = Field(default=None, ge=1)
    output: int | None = Field(default=None, ge=0)


class Case(BaseModel):
    """One run of a program that has several. expected_output: of a list, one is enough."""

    input: str | None = None
    expected_output: str | list[str] | None = None


class Submission(BaseModel):
    """One program. `sub_id` comes back with the result, and is made up where the client gives none. `expected_output`
    is compared with the stripped stdout. With `tests`, the program is compiled once and runs once for each of them, in
    processes and folders of their own. `files` are put into each folder, and `fetch` returns some of what is there at
    the end: names, or patterns in which * stands for anything."""

    type: Literal["python", "cpp"]
    solution: str
    input: str | None = None
    expected_output: str | None = None
    tests: list[Case] | None = Field(default=None, min_length=1)
    sub_id: str | None = None
    options: Options = Options()
    limits: Limits | None = None
    files: dict[str, Content] | None = None
    fetch: list[str] | None = None

    @field_validator("options", mode="before")
    @classmethod
    def _no_options(cls, value: Any) -> Any:
        return Options() if value is None else value

    @model_validator(mode="after")
    def _either_one_or_several(self) -> "Submission":
        if self.tests is not None and (self.input is not None or self.expected_output is not None):
            raise ValueError("give either tests, or input and expected_output")
        return self

    @model_validator(mode="after")
    def _names(self) -> "Submission":
        if self.files:
            check_files(self.files, ("solution.py",) if self.type == "python" else ("main.cpp", "main"))
        if self.fetch:
            check_patterns(self.fetch)
        return self


def programs(submissions: Iterable[Submission]) -> int:
    """How many times a program has to run."""
    return sum(len(submission.tests or (0,)) for submission in submissions)


class Batch(BaseModel):
    type: Literal["batch"] = "batch"
    sub_id: str | None = None
    submissions: list[Submission] = Field(min_length=1)


class JudgeResult(BaseModel):
    """success: ran to exit status 0 and printed what was expected. cost: seconds of wall time."""

    sub_id: str | None
    success: bool
    run_success: bool
    cost: float
    reason: Reason


class CaseResult(BaseModel):
    """Of one test; the keys are those of RunResult."""

    success: bool
    run_success: bool
    cost: float
    reason: Reason
    stdout: str = ""
    stderr: str = ""
    kind: str = ""
    line: int | None = None
    exit_code: int | None = None
    files: dict[str, Content] | None = None
    left_out: dict[str, str] | None = None


class RunResult(JudgeResult):
    """kind: "ok", the class name of an uncaught exception, or timeout, memory, output_limit, nonzero_exit; empty where
    the service itself failed. line: where in the submitted source the exception came up. Both are measured outside or
    carried on a channel of their own, never parsed from the output. exit_code: minus the signal where one ended it;
    none where it was ended for a limit, or has not run. files, left_out: where the submission has `fetch`, contents by
    name, and why something was not returned.

    tests: where the submission has tests, their results in order; with early_stop, up to the first that failed. Then
    success and run_success are those of all tests together, cost is the sum, and the rest is of the first test that
    failed, or else of the last one. A test without a verdict leaves the whole without one.
    """

    stdout: str = ""
    stderr: str = ""
    kind: str = ""
    line: int | None = None
    exit_code: int | None = None
    files: dict[str, Content] | None = None
    left_out: dict[str, str] | None = None
    tests: list[CaseResult] | None = None


EXTRA_HEADER = "X-Code-Judge-Extra"
EXTRA_KEYS = frozenset(("kind", "line", "exit_code"))
"""Of a result, which the public contract does not have; for clients that ask for them by the header or `?extra=1`."""


FILE_KEYS = frozenset(("files", "left_out"))
"""Of a result whose submission has `fetch`."""


class BatchResult(BaseModel):
    sub_id: str | None
    results: list[JudgeResult]


class RunBatchResult(BaseModel):
    sub_id: str | None
    results: list[RunResult]
