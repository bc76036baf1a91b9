"""What travels over HTTP. Keys, reasons and endpoints are the contract that existing clients depend on."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

TIMEOUT_MARK = "Suicide from timeout."
"""What clients of the contract find at the end of stdout after a timeout."""


class Reason(StrEnum):
    """Why there is no verdict; empty where there is one."""

    NONE = ""
    WORKER_TIMEOUT = "worker_timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    INTERNAL_ERROR = "internal_error"
    INVALID_INPUT = "invalid_input"


class Options(BaseModel, frozen=True):
    """echo_last_expression: print the value of a last line that is an expression, as a notebook does. cut_middle: of an
    output that is too long, return beginning and end, instead of the beginning. compare: the output with the expected
    one as texts without surrounding blanks, or by `compare.same_lines`."""

    echo_last_expression: bool = False
    cut_middle: bool = False
    compare: Literal["text", "lines"] = "text"


class Submission(BaseModel):
    """One program. `sub_id` comes back with the result, and is made up where the client gives none. `expected_output`
    is compared with the stripped stdout."""

    type: Literal["python", "cpp"]
    solution: str
    input: str | None = None
    expected_output: str | None = None
    sub_id: str | None = None
    options: Options = Options()

    @field_validator("options", mode="before")
    @classmethod
    def _no_options(cls, value: Any) -> Any:
        return Options() if value is None else value


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


class RunResult(JudgeResult):
    """kind: "ok", the class name of an uncaught exception, or timeout, memory, output_limit, nonzero_exit; empty where
    the service itself failed. line: where in the submitted source the exception came up. Both are measured outside or
    carried on a channel of their own, never parsed from the output."""

    stdout: str = ""
    stderr: str = ""
    kind: str = ""
    line: int | None = None


EXTRA_HEADER = "X-Code-Judge-Extra"
EXTRA_KEYS = frozenset(("kind", "line"))
"""Of a result, which the public contract does not have; for clients that ask for them by the header or `?extra=1`."""


class BatchResult(BaseModel):
    sub_id: str | None
    results: list[JudgeResult]


class RunBatchResult(BaseModel):
    sub_id: str | None
    results: list[RunResult]
