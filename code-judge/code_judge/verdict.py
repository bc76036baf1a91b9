"""From how a program ended to the result that the client gets. Pure functions."""

from collections.abc import Sequence

from code_judge.compare import same_lines, same_text
from code_judge.sandbox.pool import Execution
from code_judge.wire import TIMEOUT_MARK, CaseResult, Reason, RunResult, Submission

_NOT_OF_A_TEST = {"sub_id", "tests"}


def compile_error(submission: Submission, compilation: Execution, length: int) -> RunResult:
    """The compiler refuses the source, or does not come to an end within its limits."""
    stderr = compilation.stderr + (f"the compiler was stopped: {compilation.why}\n" if compilation.why else "")
    return RunResult(
        sub_id=submission.sub_id,
        success=False,
        run_success=False,
        cost=compilation.seconds,
        reason=Reason.NONE,
        stderr=stderr[:length],
        kind="compile_error",
        exit_code=None if compilation.why == "timeout" else compilation.status,
    )


def verdict(
    submission: Submission,
    execution: Execution,
    output_length: int,
    *,
    memory: int,
    expected: Sequence[str] = (),
) -> RunResult:
    """The result of a program that ran. expected: outputs of which it must have printed one; none: any will do.

    It ran successfully if its exit status is 0 and no limit ended it. The exception that its process reported only
    names a failure, and is not looked at where there is none. memory: the limit in MB.
    """
    succeeded = execution.why is None and execution.status == 0
    kind = "ok" if succeeded else execution.why or execution.exception or "nonzero_exit"
    same = same_lines if submission.options.compare == "lines" else same_text
    as_expected = not expected or any(same(execution.stdout, output) for output in expected)
    stdout = cut(execution.stdout, output_length, middle=submission.options.cut_middle)
    # The end of a traceback says what went wrong.
    stderr = execution.stderr[max(0, len(execution.stderr) - output_length) :]
    if execution.why == "timeout":
        stdout += TIMEOUT_MARK
    if execution.why == "memory":
        stderr += f"memory: more than {memory} MB in use\n"
    if execution.status < 0 and kind == "nonzero_exit":
        stderr += f"killed by signal {-execution.status}\n"
    return RunResult(
        sub_id=submission.sub_id,
        success=succeeded and as_expected,
        run_success=succeeded,
        cost=execution.seconds,
        reason=Reason.WORKER_TIMEOUT if execution.why == "timeout" else Reason.NONE,
        stdout=stdout,
        stderr=stderr,
        kind=kind,
        line=execution.line if execution.why is None and not succeeded else None,
        exit_code=execution.status if execution.why is None else None,
        files=execution.files,
        left_out=execution.left_out,
    )


def together(submission: Submission, results: Sequence[RunResult]) -> RunResult:
    """The result of a submission with tests, from those of the tests that were run, in order."""
    lost = next((result for result in results if result.reason == Reason.INTERNAL_ERROR), None)
    shown = lost or next((result for result in results if not result.success), results[-1])
    return shown.model_copy(
        update={
            "sub_id": submission.sub_id,
            "success": lost is None and all(result.success for result in results),
            "run_success": lost is None and all(result.run_success for result in results),
            "cost": sum(result.cost for result in results),
            "tests": [CaseResult.model_construct(**result.model_dump(exclude=_NOT_OF_A_TEST)) for result in results],
        }
    )


def cut(text: str, length: int, *, middle: bool) -> str:
    """At most `length` characters of the text, and with `middle` a note of what is missing."""
    if len(text) <= length or not middle:
        return text[:length]
    head, tail = text[: (length + 1) // 2], text[len(text) - length // 2 :]
    return f"{head}\n[{len(text) - length} characters left out]\n{tail}"
