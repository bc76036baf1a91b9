"""A program runs as `python solution.py` would run it: same output, same traceback, same exit status."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from judge_harness import Judge

PROGRAMS = {
    "traceback": "def f(x):\n    return 1 / x\n\n\nprint('a')\nf(0)",
    "chained": "try:\n    {}['k']\nexcept KeyError as e:\n    raise ValueError('no k') from e",
    "during": "try:\n    1/0\nexcept ZeroDivisionError:\n    [][1]",
    "group": "raise ExceptionGroup('g', [ValueError(1), TypeError(2)])",
    "notes": "e = ValueError('x')\ne.add_note('a note')\nraise e",
    "custom": "class Odd(Exception):\n    pass\nraise Odd('multi\\nline')",
    "syntax": "x = 1\nif x\n    pass\n",
    "indentation": "def f():\nreturn 1",
    "not closed": "print((1,\n2",
    "form feed": "x = 1\x0c\ny = 2\nraise ValueError(x)",
    "line separators": "s = 'a\u2028b'\nprint(len(s))\nraise ValueError('é')",
    "carriage returns": "x = 1\r\nprint(x)\r\nraise ValueError",
    "main": "print(__name__, __file__.endswith('solution.py'), __doc__, __package__, __spec__)",
    "docstring": "'the docstring'\nprint(__doc__)",
    "annotations": "x: int = 1\nprint(__annotations__)",
    "future": "from __future__ import annotations\ndef f(x: Nowhere): pass\nprint(f.__annotations__)",
    "globals": "print(sorted(k for k in globals() if k not in ('__cached__', '__annotations__', '__builtins__')))",
    "argv": "import sys; print(len(sys.argv), sys.argv[0].endswith('solution.py'))",
    "import main": "import __main__\nx = 5\nprint(__main__.x)",
    "pickle": "import pickle\nclass C: pass\nprint(type(pickle.loads(pickle.dumps(C()))) is C)",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(1))",
    "inspect": "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))",
    "exit code": "import sys; print(1); sys.exit(7)",
    "exit text": "raise SystemExit('bye')",
    "exit None": "raise SystemExit",
    "exit big": "raise SystemExit(256 + 5)",
    "os exit": "import os, sys\nsys.stdout.write('lost')\nos._exit(4)",
    "atexit": "import atexit\natexit.register(print, 'last')\nprint('first')",
    "atexit order": "import atexit\nfor i in range(3): atexit.register(print, i)\nraise ValueError",
    "atexit fails": "import atexit\n@atexit.register\ndef f(): 1/0\nprint('x')",
    "thread": "import threading, time\ndef f():\n    time.sleep(0.2)\n    print('late')\n"
    "threading.Thread(target=f).start()\nprint(1)",
    "thread fails": "import threading\nt = threading.Thread(target=lambda: 1/0, name='T')\n"
    "t.start()\nt.join()\nprint('on')",
    "daemon thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "stdin": "import sys\nprint(input(), sys.stdin.readline(), list(sys.stdin))",
    "eof": "input(); input(); input(); input()",
    "stdin bytes": "import sys; print(sys.stdin.buffer.read())",
    "streams": "import sys; print(sys.stdin, sys.stdout, sys.stderr, sys.stdout.errors)",
    "stdout bytes": "import sys; sys.stdout.buffer.write(b'\\xff\\x00ok'); sys.stdout.flush()",
    "unicode": "print('ünï → 😀')",
    "surrogate": "print('\\ud800')",
    "closed stdout": "import sys; sys.stdout.close()",
    "closed stdout fd": "import os; os.close(1); print('x')",
    "excepthook": "import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1/0",
    "recursion": "def f(): f()\ntry:\n    f()\nexcept RecursionError as e:\n    print(e)",
    "recursion fails": "import sys\nsys.tracebacklimit = 3\ndef f(): f()\nf()",
    "keyboard": "raise KeyboardInterrupt",
    "keyboard in a function": "def f(): raise KeyboardInterrupt('x')\nf()",
    "warning": "import warnings\nwarnings.warn('old')\nprint(1)",
    "subprocess": "import subprocess; print(subprocess.check_output(['echo', 'hi']))",
    "shell": "import os; print(os.system('exit 3') >> 8)",
    "files": "open('a', 'w').write('x')\nimport os\nprint(os.listdir() if False else open('a').read())",
    "module file": "open('mod.py', 'w').write('y = 4')\nimport mod\nprint(mod.y)",
    "tempfile": "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'x'); print(f.tell())",
    "asyncio": "import asyncio\nasync def main():\n    await asyncio.sleep(0.01); print('done')\nasyncio.run(main())",
    "hash": "print(hash('a'), {'x', 'y', 'z'})",
    "gc": "import gc; print(gc.isenabled(), gc.get_threshold())",
    "weak references at the end": "class C:\n    def __del__(self): print('deleted')\nc = C()\ndel c",
    "signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "abort": "import os; os.abort()",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "handled signal": "import signal, os\nsignal.signal(signal.SIGUSR1, lambda *_: print('got'))\n"
    "os.kill(os.getpid(), signal.SIGUSR1)",
    "default signals": "import signal\nprint([signal.getsignal(s) for s in (2, 10, 13, 14, 15, 17, 24, 25)])",
    "type names": "class A: pass\nprint(A, A.__module__)",
    "decimal": "from decimal import Decimal, getcontext\nprint(getcontext().prec, Decimal(1) / 3)",
    "limits": "import sys; print(sys.getrecursionlimit(), sys.flags.optimize, sys.flags.utf8_mode)",
    "multiprocessing": "import multiprocessing as m\nctx = m.get_context('fork')\n"
    "def f(q): q.send(3)\na, b = m.Pipe()\np = ctx.Process(target=f, args=(b,))\np.start(); print(a.recv()); p.join()",
}
STDIN = "first line\nsecond ü line\nthird"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference")


def reference(solution: str, folder: Path) -> tuple[str, str, int]:
    file = folder / "solution.py"
    file.write_bytes(solution.encode())
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    # As the service does it: UTF-8, and no user's site packages.
    command = [sys.executable, "-s", "-X", "utf8", "solution.py"]
    done = subprocess.run(command, input=STDIN.encode(), capture_output=True, cwd=folder, env=environment, check=False)
    stderr = done.stderr.decode("utf-8", "replace").replace(f"{folder}/", "")
    return done.stdout.decode("utf-8", "replace"), stderr, done.returncode


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_as_the_script(served: Judge, folder: Path, name: str) -> None:
    solution = PROGRAMS[name]
    stdout, stderr, status = reference(solution, folder)
    result = served.run(solution, input=STDIN)
    assert result["stdout"] == stdout
    assert result["run_success"] is (status == 0)
    if status >= 0:
        assert without_addresses(result["stderr"]) == without_addresses(stderr)[-1000:]
    elif result["kind"] == "nonzero_exit":
        assert result["stderr"].endswith(f"killed by signal {-status}\n")


def without_addresses(text: str) -> str:
    return re.sub("0x[0-9a-f]{12}", "0x...", text)


def test_a_nul_is_an_error_of_the_source(served: Judge) -> None:
    result = served.run("print(1)\x00")
    assert (result["run_success"], result["reason"], result["stdout"]) == (False, "", "")
    assert result["kind"] in ("SyntaxError", "ValueError")
    assert "null bytes" in result["stderr"]


def test_generators_differ_from_run_to_run(served: Judge) -> None:
    results = served.run_all(["import random; print(random.random())"] * 4)
    assert len({result["stdout"] for result in results}) == 4


def test_runs_do_not_see_each_other(served: Judge) -> None:
    served.run("import builtins, os, sys\nbuiltins.x = 1\nopen('left', 'w').close()\nos.environ['LEFT'] = '1'")
    after = "import os\ntry:\n    x\nexcept NameError:\n    print('no x', os.listdir(), 'LEFT' in os.environ)"
    assert served.run(after)["stdout"] == "no x ['solution.py'] False\n"


@pytest.mark.parametrize(
    ("solution", "stdout"),
    [
        ("x = 2\nx * 21", "42\n"),
        ("'text'", "'text'\n"),
        ("None", ""),
        ("print(1)", "1\n"),
        ("x = 1", ""),
        ("", ""),
        ("from __future__ import annotations\nprint(1)\n(2,)", "1\n(2,)\n"),
    ],
)
def test_echo_of_the_last_expression(served: Judge, solution: str, stdout: str) -> None:
    options = {"echo_last_expression": True}
    result = served.run(solution, options=options)
    assert (result["stdout"], result["kind"]) == (stdout, "ok")


@pytest.mark.parametrize(
    ("solution", "kind", "line"),
    [
        ("x = 1\ny = z", "NameError", 2),
        ("x = 1\nif x\n", "SyntaxError", 2),
        ("def f():\n    [][1]\n\nf()", "IndexError", 2),
        ("import json\njson.loads('{')", "JSONDecodeError", 2),
        ("class E(Exception): pass\nraise E", "E", 2),
        ("import sys; sys.exit(3)", "nonzero_exit", None),
        ("import os; os._exit(1)", "nonzero_exit", None),
        ("import os; os.kill(os.getpid(), 9)", "nonzero_exit", None),
        ('print(\'{"kind": "ok", "line": 1}\')\nraise ValueError', "ValueError", 2),
    ],
)
def test_the_failure_is_data(served: Judge, solution: str, kind: str, line: int | None) -> None:
    result = served.run(solution)
    assert (result["kind"], result["line"], result["run_success"]) == (kind, line, False)
