"""From a submission to the programs that the sandbox runs: one for each test, or one alone. A program
with several tests is compiled once."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from code_judge.public_settings import compile_command
from code_judge.sandbox.pool import Program, Sandbox
from code_judge.settings import Settings
from code_judge.tasks import end
from code_judge.verdict import compile_error
from code_judge.wire import Case, Limits, Reason, RunResult, Submission

WORTH_COMPILING = 4096
"""Characters of a script times its tests from which it is compiled once for all, in a process of its own."""
ROOM_SECONDS = 0.1
"""Time between two looks at whether there is room for one more test."""


def tests_of(submission: Submission) -> Sequence[Case]:
    """Of one without tests, what it would be."""
    if submission.tests is not None:
        return submission.tests
    return [Case.model_construct(input=submission.input, expected_output=submission.expected_output)]


def outputs_of(test: Case) -> Sequence[str]:
    """The expected ones."""
    expected = test.expected_output
    return [expected] if isinstance(expected, str) else expected or ()


def limits_of(submission: Submission, settings: Settings) -> tuple[float, int, int]:
    """Seconds, MB of memory, and characters of output to return."""
    limits = submission.limits or Limits()
    return (
        min(limits.seconds or settings.max_execution_time, settings.max_execution_time),
        min(limits.memory or settings.max_memory, settings.max_memory),
        settings.max_stdout_error_length if limits.output is None else min(limits.output, settings.max_output_size),
    )


def program_for(program: Program, test: Case, settings: Settings) -> Program:
    # An expected output must be able to come, however long it is.
    longest = max((len(output.encode("utf-8", "replace")) for output in outputs_of(test)), default=0)
    return replace(program, stdin=test.input or "", output=settings.max_output_size + longest)


@asynccontextmanager
async def prepared(sandbox: Sandbox, submission: Submission, settings: Settings) -> AsyncIterator[Program | RunResult]:
    """The program without its input, or why there is none. Raises SandboxLost and OSError."""
    seconds, memory, length = limits_of(submission, settings)
    program = Program(
        source=submission.solution,
        stdin="",
        seconds=seconds,
        cpu=None if submission.limits is None else submission.limits.cpu,
        memory=memory << 20,
        output=settings.max_output_size,
        echo=submission.options.echo_last_expression,
        files=tuple((submission.files or {}).items()),
        fetch=tuple(submission.fetch or ()),
        most_fetched=settings.max_files_size,
    )
    if submission.type == "python":
        if len(submission.solution) * len(submission.tests or ()) < WORTH_COMPILING:
            yield program
            return
        async with compiled_once(sandbox, program) as compiled:
            yield compiled
        return
    binary = os.memfd_create("code-judge-binary", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        compilation = await sandbox.run(
            replace(
                program,
                seconds=settings.cpp_compile_time,
                cpu=None,
                memory=settings.cpp_compile_memory << 20,
                fetch=(),
                compiler=compile_command(settings.cpp_compile_command),
                artefact=binary,
            )
        )
        if compilation.why is not None or compilation.status != 0:
            yield compile_error(submission, compilation, length)
            return
        _seal(binary)
        # What is open for writing cannot be executed.
        readable = os.open(f"/proc/self/fd/{binary}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(binary)
        binary = readable
        yield replace(program, source="", binary=binary)
    finally:
        os.close(binary)


@asynccontextmanager
async def compiled_once(sandbox: Sandbox, program: Program) -> AsyncIterator[Program]:
    """The script with its code. Without it where the compiler has anything to say, so that each run says it: an error,
    a warning, or that a limit was met. Raises SandboxLost and OSError."""
    artefact = os.memfd_create("code-judge-code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        compilation = await sandbox.run(replace(program, artefact=artefact, files=(), fetch=()))
        if compilation.why is not None or compilation.status != 0 or compilation.stderr:
            yield program
            return
        _seal(artefact)
        yield replace(program, code=artefact)
    finally:
        os.close(artefact)


def _seal(fd: int) -> None:
    """No run can change what the others read or execute, nor keep it open for writing. Raises OSError."""
    os.fchmod(fd, 0o555)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


async def run_tests(
    count: int, start: Callable[[int], "asyncio.Task[RunResult] | None"], *, early_stop: bool
) -> list[RunResult]:
    """The results of tests 0 to `count`, in order, up to the first that is not run.

    start: begins a test, unless there is no room for one more; for the first of those that run at a time there always
    is. With early_stop, the results end with the first test that fails, whatever was run at the same time. They also
    end with a test that has no verdict.
    """
    results: dict[int, RunResult] = {}
    running: dict[asyncio.Task[RunResult], int] = {}
    begun, bound = 0, count
    try:
        while True:
            while begun < bound and (task := start(begun)) is not None:
                running[task] = begun
                begun += 1
            if not running and begun < bound:
                # The test that ended last has yet to leave its place.
                await asyncio.sleep(0)
                continue
            if not running:
                return [results[number] for number in range(bound)]
            timeout = ROOM_SECONDS if begun < bound else None
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = running.pop(task)
                result = results[number] = task.result()
                if result.reason == Reason.INTERNAL_ERROR or (early_stop and not result.success):
                    bound = min(bound, number + 1)
            if needless := [task for task, number in running.items() if number >= bound]:
                await end(needless)
                for task in needless:
                    del running[task]
    finally:
        await end(running)
