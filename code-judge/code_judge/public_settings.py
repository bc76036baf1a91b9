"""The public code-judge's environment variables that this service does not have.

Those that would change where programs run, or who shares a queue, are refused: a service that ignored them would do
something else than its operator wants. Those that tune the public service's internals are named in a warning.
"""

import logging
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

OTHER_KEYS = ("WORK_QUEUE_NAME", "REDIS_RESULT_QUEUE_PREFIX", "REDIS_WORKER_ID_PREFIX")
WITHOUT_MEANING = (
    "ERROR_CASE_SAVE_PATH",
    "MAX_QUEUE_WAIT_TIME",
    "MAX_BATCH_CHUNK_SIZE",
    "MAX_LONG_BATCH_CHUNK_SIZE",
    "REDIS_RESULT_EXPIRE",
    "REDIS_RESULT_LONG_BATCH_EXPIRE",
    "REDIS_WORK_QUEUE_BLOCK_TIMEOUT",
    "REDIS_WORKER_REGISTER_TIMEOUT",
    "REDIS_SOCKET_TIMEOUT",
)
_ISOLATED = "Programs are isolated in layers without such a command (CODE_JUDGE_REQUIRE_ISOLATION); unset it"


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises ValueError for a variable that the service cannot do as it says; warns of those without a meaning."""
    for name, arguments in (("PYTHON_EXECUTE_COMMAND", ["{source}"]), ("PYTHON_EXECUTOR_PATH", [])):
        value = environment.get(name)
        if value and not _is_this_interpreter(shlex.split(value), arguments):
            raise ValueError(
                f"{name}={value!r} is not supported: programs are forked from the interpreter that runs the workers, "
                f"here {sys.executable}. Set CODE_JUDGE_PYTHON to the path of the one that they shall have. {_ISOLATED}"
            )
    value = environment.get("CPP_EXECUTE_COMMAND")
    if value and shlex.split(value) != ["{exe}"]:
        raise ValueError(f"CPP_EXECUTE_COMMAND={value!r} is not supported, only {{exe}}. {_ISOLATED}")
    for name in OTHER_KEYS:
        if environment.get(name):
            raise ValueError(
                f"{name}={environment[name]!r} is not supported: set REDIS_KEY_PREFIX, with which all keys begin"
            )
    if ignored := [name for name in WITHOUT_MEANING if environment.get(name)]:
        logger.warning("of the environment, these have no meaning here and are ignored: %s", ", ".join(ignored))


def compile_command(command: str) -> tuple[str, ...]:
    """What compiles `main.cpp` into `main`, from CPP_COMPILE_COMMAND.

    The public service's command names {source} and {exe}. Where it names neither, both are added to it.
    """
    places = {"{source}": "main.cpp", "{exe}": "main"}
    words = shlex.split(command)
    missing = [place for place in places if not any(place in word for word in words)]
    if not words or len(missing) == 1:
        raise ValueError(
            f"CPP_COMPILE_COMMAND={command!r} must be a command that names both {{source}} and {{exe}}, or neither"
        )
    if missing:
        words += ["{source}", "-o", "{exe}"]
    for place, name in places.items():
        words = [word.replace(place, name) for word in words]
    return tuple(words)


def _is_this_interpreter(words: list[str], arguments: list[str]) -> bool:
    found = shutil.which(words[0]) if words else None
    if found is None or words[1:] != arguments:
        return False
    # Not resolved to the end: an environment's interpreter is a link to one that has other packages.
    ours, theirs = Path(sys.executable), Path(found)
    return ours.parent.resolve() == theirs.parent.resolve() and ours.resolve() == theirs.resolve()
