"""Configurations as Hydra composes them, much faster: a file's is composed once, overrides change a copy of it."""

import copy
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

import verl_cleaner

CONF = Path(verl_cleaner.__file__).parent / "conf"


@lru_cache(None)
def composed(name: str, *overrides: str, folder: Path = CONF) -> DictConfig:
    """By Hydra; do not change it."""
    with initialize_config_dir(str(folder), version_base=None):
        return compose(name, overrides=list(overrides))


def overridden(config: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """A copy with overrides of values, which Hydra applies and refuses as it does when it composes."""
    made = copy.deepcopy(config)
    words = [word for word in overrides if not word.startswith("hydra.")]
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(words), made)
    return made


def changed(config: Any, overrides: Iterable[str]) -> Any:
    """The same; new keys need no `+`."""
    made = copy.deepcopy(config)
    with open_dict(made):
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            OmegaConf.update(made, override.key_or_group, override.value())
    return made
