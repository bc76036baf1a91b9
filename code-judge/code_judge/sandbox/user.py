"""Run the submitted source as `python solution.py` would, in a freshly forked process.

Imported by the template only; standard library, little of it.
"""

import builtins
import os
import random
import resource
import signal
import sys
import threading
from atexit import _run_exitfuncs as run_exit_handlers
from collections.abc import Iterator
from contextlib import suppress
from gc import collect, get_objects
from gc import enable as enable_collector
from importlib.machinery import SourceFileLoader
from io import BufferedRandom, BufferedWriter, TextIOWrapper
from os import chdir, close, urandom, write
from os import open as open_file
from sys import argv, modules
from sys import path as search_path
from threading import _shutdown as end_threads  # type: ignore[attr-defined]
from types import FrameType, ModuleType, TracebackType

from code_judge.sandbox import cpp, precompiled
from code_judge.sandbox.box import FILENAME
from code_judge.sandbox.parcel import unpack
from code_judge.sandbox.precompiled import Parts, compile_script
from code_judge.sandbox.privileges import Place, enter
from code_judge.sandbox.status import STARTED, exception_packet

# Names of their own for what every fork calls: see kernel.py.
_leave = os._exit
_new_random_seed = super(random.Random, random._inst).seed
set_thread_number = threading.main_thread()._set_native_id  # type: ignore[attr-defined]

STATUS_FD = 3
_NEW_SOURCE = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC
REHEARSALS = 20
_FILES = (TextIOWrapper, BufferedWriter, BufferedRandom)
"""What holds back what was written to it; the first writes into the others."""
_STREAMS = (("stdin", "r", "surrogateescape"), ("stdout", "w", "surrogateescape"), ("stderr", "w", "backslashreplace"))


def become_script(source: bytes, place: Place, echo: bool, compiled: bytes | None, files: int | None) -> None:
    """Never returns, unless it raises before the program has started. compiled: see precompiled.py.

    stdin, stdout and stderr are in place. STATUS_FD is told that the program started, then what exception ended it.
    files: see parcel.py.
    """
    chdir(place[0])
    # Tracebacks, `inspect` and the program itself read it.
    file = open_file(FILENAME, _NEW_SOURCE, 0o600)
    rest = source
    while rest:
        rest = rest[write(file, rest) :]
    close(file)
    _enter(place, files)
    renew_random()
    write(STATUS_FD, STARTED)
    code = 1
    try:
        code = _run(source, place[0], echo, compiled)
    finally:
        _leave(code)


def become_compiler(
    source: bytes, place: Place, command: list[str], artefact_fd: int, files: int | None, echo: bool
) -> None:
    """As become_script. The compiled program goes to `artefact_fd`. command: of the C++ compiler; none: Python."""
    chdir(place[0])
    _enter(place, files)
    write(STATUS_FD, STARTED)
    if command:
        _leave(cpp.compile_source(source, command, artefact_fd))
    _leave(precompiled.store(compile_script(source, echo), artefact_fd))


def become_binary(binary_fd: int, place: Place, files: int | None) -> None:
    """As become_script."""
    chdir(place[0])
    _enter(place, files)
    write(STATUS_FD, STARTED)
    cpp.execute(binary_fd)


def _enter(place: Place, files: int | None) -> None:
    """Give up all privileges, and then put the files into the folder."""
    enter(place)
    if files is not None:
        unpack(files)
        close(files)


def rehearse() -> None:
    """Do in the template what every fork does, as often as the interpreter needs to see it for its caches."""
    main = modules["__main__"]
    random.seed()
    for _ in range(REHEARSALS):
        for echo in (False, True):
            _execute(compile_script(b"print('', 0)\n''", echo), _new_main(FILENAME))
        flush()
        renew_random()
    modules["__main__"] = main
    # The script's place in the zygote's command; see link.py.
    sys.orig_argv[4:] = [FILENAME]


def renew_random() -> None:
    """No two forks draw the same numbers; the main thread has a new number, too."""
    set_thread_number()
    _new_random_seed()
    if "numpy.random" in modules:
        modules["numpy.random"].seed(int.from_bytes(urandom(4), "little"))


def open_streams() -> int:
    """On descriptors 0, 1 and 2, as the interpreter does for what is no terminal. Done in the template; its forks find
    them ready. What is there meanwhile is of the kind that programs get, because the streams ask once and remember:
    on 0 a file in memory, and on 1 and 2 a pipe, of which the other end is returned."""
    read_end, write_end = os.pipe()
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.close(write_end)
    for fd, (name, mode, errors) in enumerate(_STREAMS):
        file = open(fd, mode, 1 if name == "stderr" else -1, "utf-8", errors, closefd=False)  # noqa: SIM115
        file.buffer.raw.name = f"<{name}>"  # type: ignore[attr-defined]
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    return read_end


def _new_main(path: str) -> dict[str, object]:
    main = ModuleType("__main__")
    namespace = main.__dict__
    loader = SourceFileLoader("__main__", path)
    namespace.update(__file__=path, __cached__=None, __loader__=loader, __builtins__=builtins, __annotations__={})
    modules["__main__"] = main
    return namespace


def _run(source: bytes, folder: str, echo: bool, compiled: bytes | None) -> int:
    argv[:] = [FILENAME]
    search_path.insert(0, folder)
    namespace = _new_main(folder + "/" + FILENAME)
    enable_collector()
    try:
        parts = compile_script(source, echo) if compiled is None else precompiled.load(compiled)
        _execute(parts, namespace)
        code = 0
    except SystemExit as end:
        code = exit_code(end)
    except BaseException as error:
        code = _report(error)
    # As the interpreter ends: join the threads, call the exit handlers, flush.
    try:
        end_threads()
        run_exit_handlers()
    except BaseException as error:
        code = code or _report(error)
    failed = flush()
    del namespace
    _end_objects()
    return failed or flush() or code


def _end_objects() -> None:
    """As the interpreter does at its end: open files are written, and what still lives is told that it ends. The
    template's own objects are not looked at."""
    # Before the collector, which may close a file's lower parts first where the file is in a cycle.
    _write_files()
    # A program may have taken it out.
    modules.pop("__main__", None)
    collect()


def _write_files() -> None:
    files = [found for found in get_objects() if type(found) in _FILES]
    for kind in _FILES:
        for file in files:
            if type(file) is kind:
                with suppress(BaseException):
                    file.flush()


def flush() -> int:
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BaseException as error:
        print(f"Exception ignored in: {sys.stdout!r}\n{type(error).__name__}: {error}", file=sys.stderr)
        return 120
    return 0


def _execute(parts: Parts, namespace: dict[str, object]) -> None:
    statements, last = parts
    exec(statements, namespace)
    if last is not None and (value := eval(last, namespace)) is not None:
        print(repr(value))


def exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _report(error: BaseException) -> int:
    """Tell how the program ended, on the status pipe as data and on stderr as the interpreter does."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    frames = [line for frame, line in _walk(error.__traceback__) if frame.f_code.co_filename == FILENAME]
    line = frames[-1] if frames else None
    if isinstance(error, SyntaxError) and error.filename == FILENAME:
        line = error.lineno
    with suppress(OSError):
        write(STATUS_FD, exception_packet(type(error).__name__, line))
    # From the user's first frame on; a syntax error has none.
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename != FILENAME:
        start = start.tb_next
    _call_hook(error.with_traceback(start))
    if isinstance(error, KeyboardInterrupt):
        flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 1


def _call_hook(error: BaseException) -> None:
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit:
        raise
    except BaseException as failure:
        traceback, failure.__context__ = failure.__traceback__, None
        print("Error in sys.excepthook:", file=sys.stderr)
        failure.__traceback__ = traceback and traceback.tb_next
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, error.__traceback__)


def _walk(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
