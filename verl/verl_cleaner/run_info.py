"""What a run was started with, beside its rollouts: `<rollout_data_dir>/run.json`, its configuration and versions."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

FILE = "run.json"
PACKAGES = ("verl", "verl-cleaner", "code-judge", "torch", "transformers", "ray", "sglang", "vllm", "flash-attn")


def write(folder: Path, config: DictConfig) -> None:
    """The configuration as resolved, after all overrides and translations."""
    folder.mkdir(parents=True, exist_ok=True)
    info = {"config": OmegaConf.to_container(config, resolve=True), "versions": versions()}
    (folder / FILE).write_text(json.dumps(info, indent=1, default=str), encoding="utf-8")


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
