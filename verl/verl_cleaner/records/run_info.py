"""What a run was started with, beside its rollouts: `<rollout_data_dir>/run.json`.

config      as resolved, after all overrides and translations, without secrets
versions    of Python and of the packages that matter
started     date and time, UTC
command     as it was typed, without secrets; null where the run was not started by `verl_cleaner.main_ppo`
commit      of the source tree that the plug-in runs from, "+" where files differ; null for an installed package
hardware    the processors of the node that the trainer runs on
"""

import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

FILE = "run.json"
PACKAGES = ("verl", "verl-cleaner", "code-judge", "torch", "transformers", "ray", "sglang", "vllm", "flash-attn")


def write(folder: Path, config: DictConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    info = {
        "config": redact(OmegaConf.to_container(config, resolve=True)),
        "versions": versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": config.trainer.get("command"),
        "commit": commit(),
        "hardware": hardware(),
    }
    (folder / FILE).write_text(json.dumps(info, indent=1, default=str), encoding="utf-8")


def command_line(arguments: Sequence[str]) -> str:
    """Of `verl_cleaner.main_ppo` with these arguments, in a shell's words, secrets hidden."""
    shown = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        shown.append(f"{key}={redact(value, key=key.rpartition('.')[2])}" if equals else redact(argument))
    return shlex.join(["python", "-m", "verl_cleaner.main_ppo", *shown])


def commit() -> str | None:
    """Twelve digits."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        # A virtual environment may lie in a repository that has nothing to do with the package.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> str:
    """E.g. "4 × NVIDIA H100 80GB HBM3, 64 CPUs, 512 GiB"."""
    parts = [*_accelerators(), f"{len(os.sched_getaffinity(0))} CPUs"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return ", ".join([*parts, f"{memory / 2**30:.0f} GiB"])


def _accelerators() -> list[str]:
    """From the driver: the trainer's own process may see no device."""
    ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):
        return []
    found = [name.strip() for name in names if name.strip()]
    return [f"{found.count(name)} × {name}" for name in dict.fromkeys(found)]


_SECRET_KEY = re.compile(
    r"api[_-]?key|access[_-]?key|private[_-]?key|passw(or)?d|secret|credential|authorization|bearer|wandb_proxy"
    r"|(^|[_-])token$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"://[^/@\s]+@|\bbearer\s+\S", re.IGNORECASE)
HIDDEN = "(hidden)"


def redact(value: Any, *, key: str = "") -> Any:
    """With what looks like a secret by its key or value hidden, at any depth: runs are handed around."""
    if value is not None and _SECRET_KEY.search(key):
        return HIDDEN
    if isinstance(value, dict):
        return {name: redact(item, key=str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return HIDDEN if isinstance(value, str) and _SECRET_VALUE.search(value) else value


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read(path: Path) -> dict[str, Any]:
    """Raises ValueError where it is no such file."""
    info = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(info, dict) or not isinstance(info.get("config"), dict):
        raise ValueError(f"{path} has no configuration")
    return info
