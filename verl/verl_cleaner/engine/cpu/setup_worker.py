"""A raylet starts this program instead of Ray's of the same name, which imports Ray: half a second of CPU a worker.

It becomes the worker: it sets the variables of the runtime environment and starts its interpreter with the worker's
script. A runtime environment with more in it is left to Ray's program. It imports the standard library only. Usage:
setup_worker.py --serialized-runtime-env-context=JSON --language=PYTHON [-u] SCRIPT ARGUMENTS…
"""

import json
import os
import re
import shlex
import sys
from typing import Any, NoReturn

_CONTEXT, _LANGUAGE = "--serialized-runtime-env-context=", "--language="
_KNOWN = {"env_vars", "py_executable"}


def main() -> None:
    texts = [word.removeprefix(_CONTEXT) for word in sys.argv if word.startswith(_CONTEXT)]
    context = {key: value for key, value in json.loads(texts[0]).items() if value} if texts else {}
    if f"{_LANGUAGE}PYTHON" in sys.argv and "py_executable" in context and context.keys() <= _KNOWN:
        _become(context, [word for word in sys.argv[1:] if not word.startswith((_CONTEXT, _LANGUAGE))])
    import runpy

    # This folder, whose `platform` is not the standard library's.
    sys.path.remove(os.path.dirname(__file__))
    runpy.run_module("ray._private.workers.setup_worker", run_name="__main__", alter_sys=True)


def _become(context: dict[str, Any], words: list[str]) -> NoReturn:
    """As Ray does it: a variable's value may name others, and the interpreter is words of a shell."""
    for name, value in context.get("env_vars", {}).items():
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    command = [*shlex.split(context["py_executable"]), *words]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
