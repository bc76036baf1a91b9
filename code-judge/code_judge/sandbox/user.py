"""Run the submitted source as `python solution.py` would, in a freshly forked process.

Imported by the template only; standard library, little of it.
"""

import ast
import atexit
import builtins
import gc
import json
import os
import random
import resource
import signal
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass

from code_judge.sandbox import cpp, kernel
from code_judge.sandbox.box import FILENAME
from code_judge.sandbox.layers import Layers

REPORT_MEMORY = 16 << 20
"""Bytes beyond the program's limit for telling how it ended, since it may have used up all of its own."""
FILE_SIZE = 64 << 20
OPEN_FILES = 256
PROCESSES = 128
"""Processes and threads of one program, where it has a user of its own."""
_STREAMS = (("stdin", "r", "surrogateescape"), ("stdout", "w", "surrogateescape"), ("stderr", "w", "backslashreplace"))


@dataclass(frozen=True, slots=True)
class Limits:
    """memory: bytes of address space. cpu_seconds: a second line; the first is kept from outside."""

    memory: int
    cpu_seconds: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs, and the descriptor that is told how it went. path, uid, ruleset: of its box."""

    path: str
    uid: int | None
    ruleset: int | None
    layers: Layers
    limits: Limits
    status_fd: int


def become_script(source: str, place: Place, *, echo: bool) -> None:
    """Never returns, unless it raises before the program has started.

    stdin, stdout and stderr are in place. `status_fd` is told that the program started, then what exception ended it.
    """
    os.chdir(place.path)
    # Tracebacks, `inspect` and the program itself read it.
    file = os.open(FILENAME, os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC, 0o600)
    text = memoryview(source.encode("utf-8", "surrogatepass"))
    while text:
        text = text[os.write(file, text) :]
    os.close(file)
    _enter(place)
    _renew_random()
    os.write(place.status_fd, b"started\n")
    code = 1
    try:
        code = _run(source, echo, place.status_fd)
    finally:
        os._exit(code)


def become_compiler(source: str, place: Place, *, command: list[str], artefact_fd: int) -> None:
    """As become_script. The compiled program goes to `artefact_fd`."""
    os.chdir(place.path)
    _enter(place)
    os.write(place.status_fd, b"started\n")
    os._exit(cpp.compile_source(source.encode("utf-8", "surrogatepass"), command, artefact_fd))


def become_binary(binary_fd: int, place: Place) -> None:
    """As become_script."""
    os.chdir(place.path)
    _enter(place)
    os.write(place.status_fd, b"started\n")
    cpp.execute(binary_fd)


def _enter(place: Place) -> None:
    limits = place.limits
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory + REPORT_MEMORY))
    _drop_privileges(place)


def limit(*, own_user: bool) -> None:
    """The limits that are the same for all programs; done in the template, whose forks inherit them."""
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        *(((resource.RLIMIT_NPROC, PROCESSES),) if own_user else ()),
    ):
        resource.setrlimit(what, (value, value))


def _drop_privileges(place: Place) -> None:
    uid, layers = place.uid, place.layers
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # Its own /proc/self stays readable.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    if "pid" not in layers.active:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if place.ruleset is not None:
        kernel.landlock_restrict(place.ruleset)
        os.close(place.ruleset)
    if "seccomp" in layers.active and layers.filter is not None:
        kernel.install_filter(layers.filter)


def _renew_random() -> None:
    """No two forks draw the same numbers; the main thread has a new number, too."""
    threading.current_thread()._set_native_id()  # type: ignore[attr-defined]
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "little"))


def open_streams() -> None:
    """On descriptors 0, 1 and 2, as the interpreter does for what is no terminal. Done in the template, which leaves
    them alone; its forks find them ready."""
    for fd, (name, mode, errors) in enumerate(_STREAMS):
        file = open(fd, mode, 1 if name == "stderr" else -1, "utf-8", errors, closefd=False)  # noqa: SIM115
        file.buffer.raw.name = f"<{name}>"  # type: ignore[attr-defined]
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)


def _run(source: str, echo: bool, status_fd: int) -> int:
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=FILENAME, __builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    sys.argv = [FILENAME]
    sys.path.insert(0, os.getcwd())
    gc.enable()
    try:
        _execute(source, main.__dict__, echo)
        code = 0
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:
        code = _report(error, status_fd)
    # As the interpreter ends: join the threads, call the exit handlers, flush.
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException as error:
        code = code or _report(error, status_fd)
    return _flush() or code


def _flush() -> int:
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BaseException as error:
        print(f"Exception ignored in: {sys.stdout!r}\n{type(error).__name__}: {error}", file=sys.stderr)
        return 120
    return 0


def _execute(source: str, namespace: dict[str, object], echo: bool) -> None:
    if not echo:
        exec(compile(source, FILENAME, "exec", dont_inherit=True), namespace)
        return
    tree = ast.parse(source, FILENAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, FILENAME, "exec", dont_inherit=True), namespace)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), FILENAME, "eval", dont_inherit=True), namespace)
        if value is not None:
            print(repr(value))


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _report(error: BaseException, status_fd: int) -> int:
    """Tell how the program ended, on the status pipe as data and on stderr as the interpreter does."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    kind = "memory" if isinstance(error, MemoryError) else type(error).__name__
    frames = [line for frame, line in _walk(error.__traceback__) if frame.f_code.co_filename == FILENAME]
    line = frames[-1] if frames else None
    if isinstance(error, SyntaxError) and error.filename == FILENAME:
        line = error.lineno
    os.write(status_fd, json.dumps({"kind": kind, "line": line}).encode())
    # From the user's first frame on; a syntax error has none.
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename != FILENAME:
        start = start.tb_next
    sys.excepthook(type(error), error.with_traceback(start), start)
    if isinstance(error, KeyboardInterrupt):
        _flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 1


def _walk(traceback: types.TracebackType | None) -> Iterator[tuple[types.FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
