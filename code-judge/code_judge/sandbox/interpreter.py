"""The interpreter that programs are forked from, and what it can keep warm: this one, or another that is named."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from code_judge.sandbox.flavours import KNOWN, Flavours, package

OPTIONS = ("-s", "-X", "utf8")
"""Not -I: it would ignore PYTHONHASHSEED. Not -P: programs would see it."""
VERSIONS = ((3, 11), (3, 12))
_SECONDS = 30
_LOOK = (
    "import json, sys\nfrom importlib.util import find_spec\n"
    "print(json.dumps([sys.implementation.name, sys.version_info[:2], [n for n in sys.argv[1:] if find_spec(n)]]))"
)


def names(text: str) -> list[str]:
    """Of the modules in CODE_JUDGE_WARM. Raises ValueError."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    for name in found:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"CODE_JUDGE_WARM names {name!r}; expected modules with commas between, such as pandas")
    return found


def find_flavours(python: str, warm: Sequence[str]) -> Flavours:
    """python: path of an interpreter; empty, this one. warm: modules.

    Raises:
        ValueError: it cannot run programs, or does not have these modules.
    """
    wanted = sorted({package(name) for name in (*warm, *KNOWN)})
    there = _look(python, wanted) if python else {name for name in wanted if find_spec(name) is not None}
    if missing := [name for name in warm if package(name) not in there]:
        raise ValueError(
            f"CODE_JUDGE_WARM names {missing[0]!r}, which {python or sys.executable} does not have; install it there, "
            "or leave it out"
        )
    return Flavours(warm, there)


def _look(python: str, packages: Iterable[str]) -> set[str]:
    """Those of the packages that it has. Raises ValueError."""
    try:
        done = subprocess.run(
            [python, *OPTIONS, "-c", _LOOK, *packages],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
            env={"PATH": os.defpath},
            cwd="/",
        )
        implementation, version, there = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        why = getattr(error, "stderr", None) or error
        raise ValueError(
            f"CODE_JUDGE_PYTHON={python!r} does not run: {str(why).strip()}; expected the path of an interpreter, such "
            "as /path/to/venv/bin/python"
        ) from None
    if implementation != "cpython" or tuple(version) not in VERSIONS:
        raise ValueError(
            f"CODE_JUDGE_PYTHON={python!r} is {implementation} {'.'.join(map(str, version))}; programs can run under "
            "CPython 3.11 and 3.12"
        )
    return set(there)
