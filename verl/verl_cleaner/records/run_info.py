"""What a run was started with, beside its rollouts: `<rollout_data_dir>/run.json`, its configuration and versions."""

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

FILE = "run.json"
PACKAGES = ("verl", "verl-cleaner", "code-judge", "torch", "transformers", "ray", "sglang", "vllm", "flash-attn")


def write(folder: Path, config: DictConfig) -> None:
    """The configuration as resolved, after all overrides and translations, without secrets."""
    folder.mkdir(parents=True, exist_ok=True)
    info = {"config": redact(OmegaConf.to_container(config, resolve=True)), "versions": versions()}
    (folder / FILE).write_text(json.dumps(info, indent=1, default=str), encoding="utf-8")


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
