"""Which interpreter a program gets, what is warm there, and what becomes of a package that cannot be warmed up."""

import subprocess
import sys
from pathlib import Path

import pytest
from judge_harness import command, environment, judge
from redis_harness import api, needs_redis, redis_server, workers

from code_judge.sandbox import flavours, interpreter
from code_judge.sandbox.flavours import Flavours

ALL = {"numpy", "sympy", "pandas", "scipy"}


@pytest.mark.parametrize(
    ("source", "extra", "flavour"),
    [
        ("print(1)", [], "bare"),
        ("import numpy as np", [], "numpy"),
        ("def f():\n    from sympy import solve", [], "sympy"),
        ("import math, mpmath\nimport numpy", [], "sympy"),
        ("import numpy\nimport sympy", [], "sympy"),
        ("text = 'import numpy'", [], "bare"),
        ("import numpy\nimport pandas as pd", [], "numpy"),
        ("import numpy\nimport pandas as pd", ["scipy.stats", "pandas"], "pandas"),
        ("import pandas\nfrom scipy import stats", ["scipy.stats", "pandas"], "scipy.stats"),
        ("import sympy\nimport pandas", ["pandas"], "pandas"),
        ("import pandasql", ["pandas"], "bare"),
    ],
)
def test_imports_choose(source: str, extra: list[str], flavour: str) -> None:
    assert Flavours(extra, ALL).choose(source) == flavour


def test_what_is_not_there_is_not_chosen() -> None:
    assert Flavours([], set()).choose("import sympy, numpy") == "bare"
    assert Flavours([], {"numpy"}).choose("import sympy, numpy") == "numpy"


def test_a_package_that_does_not_work_leaves_a_cold_zygote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(flavours._WORK, "numpy", "import numpy\nnumpy.no_such_function()")
    flavours.warm("numpy")
    assert "numpy cannot be warmed up: AttributeError" in capsys.readouterr().err
    flavours.warm("no_such_module")
    assert "no_such_module cannot be warmed up: ModuleNotFoundError" in capsys.readouterr().err


SLOW = "import time\ntime.sleep(1)\nfrom slow_package.part import VALUE\n"


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with one package, which takes a second to import."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    # A user of a slot passes through it, as through an environment that was made to be used.
    for path in (folder, *folder.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    package = next((folder / "lib").glob("python3*/site-packages")) / "slow_package"
    package.mkdir()
    (package / "__init__.py").write_text(SLOW)
    (package / "part.py").write_text("VALUE = 41\n")
    return folder


USES = (
    "import sys\nwarm = 'slow_package' in sys.modules\nimport slow_package\nprint(slow_package.VALUE, warm, sys.prefix)"
)


def test_an_environments_package_is_as_warm_as_numpy(venv: Path) -> None:
    with judge("--python", str(venv / "bin" / "python"), "--warm", "slow_package", MAX_EXECUTION_TIME=5) as it:
        results = [it.run(USES) for _ in range(5)]
        assert {result["stdout"] for result in results} == {f"41 True {venv}\n"}
        # Programs that do not import it do not have it, and what the service has is not there.
        other = it.run("import sys\nprint('slow_package' in sys.modules, sys.prefix)")
        assert other["stdout"] == f"False {venv}\n"
        assert it.run("import pydantic")["kind"] == "ModuleNotFoundError"
        assert it.run("import numpy")["kind"] == "ModuleNotFoundError"
        session = it.post("/session")["session"]
        cell = it.post(f"/session/{session}/run", code="import sys; print(sys.prefix)")
        assert cell["stdout"] == f"{venv}\n"


def test_without_being_told_it_is_cold(venv: Path) -> None:
    with judge(CODE_JUDGE_PYTHON=venv / "bin" / "python", MAX_EXECUTION_TIME=5) as it:
        result = it.run(USES)
        assert result["stdout"] == f"41 False {venv}\n"
        assert result["cost"] > 1


@needs_redis
def test_pools_with_interpreters_of_their_own_share_a_redis(venv: Path, tmp_path: Path) -> None:
    python = str(venv / "bin" / "python")
    with (
        redis_server(tmp_path) as redis,
        api(redis.uri) as plain,
        workers(redis.uri),
        api(redis.uri, REDIS_KEY_PREFIX="slow") as own,
        workers(redis.uri, REDIS_KEY_PREFIX="slow", CODE_JUDGE_PYTHON=python, CODE_JUDGE_WARM="slow_package"),
    ):
        assert plain.run(USES)["kind"] == "ModuleNotFoundError"
        assert own.run(USES)["stdout"] == f"41 True {venv}\n"


def test_a_package_of_this_interpreter() -> None:
    """Whichever large one is installed here beside numpy and sympy."""
    name = next(name for name in ("networkx", "pandas", "httpx") if interpreter.find_spec(name))
    with judge(CODE_JUDGE_WARM=name) as it:
        source = f"import sys\nwarm = {name!r} in sys.modules\nimport {name}\nprint(warm)"
        assert it.run(source)["stdout"] == "True\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--python", "/no/such/python"], "CODE_JUDGE_PYTHON='/no/such/python' does not run"),
        (["--python", "/bin/false"], "CODE_JUDGE_PYTHON='/bin/false' does not run"),
        (["--python", "/bin/echo"], "CODE_JUDGE_PYTHON='/bin/echo' does not run"),
        (["--warm", "no_such_module"], "CODE_JUDGE_WARM names 'no_such_module', which"),
        (["--warm", "numpy; import os"], "CODE_JUDGE_WARM names 'numpy; import os'"),
    ],
)
def test_an_interpreter_that_cannot_be_used_ends_the_service(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        command("serve", "--port", "0", *arguments), env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"code-judge: error: {message}" in done.stderr


def test_an_interpreter_of_another_version_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho '[\"cpython\", [3, 10], []]'\n")
    other.chmod(0o755)
    with pytest.raises(ValueError, match=r"is cpython 3\.10; programs can run under CPython 3\.11 and 3\.12"):
        interpreter.find_flavours(str(other), [])
