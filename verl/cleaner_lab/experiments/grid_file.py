"""The YAML file of a grid (`recipe/cleaner/experiments/nano.yaml`).

extends      another grid's file beside this one, whose keys hold here unless given anew; `overrides` are added, and
             settings of `cold_start.nano` hold one by one
name         of the grid
config_name  our Hydra configuration that every run starts from
cold_start   {nano: {seed: 0, …}}, settings of `nano.cold_start`, or {model: FOLDER, train: FILE, val: FILE}
steps        RL steps of a run
seeds        of data order and sampling
overrides    Hydra overrides of every run
methods      name: its overrides, or {overrides: […], seeds: […]} where it has seeds of its own
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from cleaner_lab.experiments.grid import NANO, Grid, GridError, Method
from cleaner_lab.nano.settings import Settings

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def read_grid(path: Path) -> Grid:
    """Raises GridError with the file, the key, what was got and what is expected."""
    content = _read(path, ())
    try:
        return _grid(content)
    except GridError as error:
        raise GridError(f"{path}: {error}") from None


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """extending: the files that led here."""
    if not path.is_file():
        raise GridError(f"{path} does not exist (seen from {Path.cwd()}), expected the YAML file of a grid")
    if path in extending:
        raise GridError(f"{path} extends itself")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise GridError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise GridError(f"{path}: got {content!r}, expected keys and values")
    try:
        own = read_overrides(content.get("overrides", []), "overrides")
    except GridError as error:
        raise GridError(f"{path}: {error}") from None
    base: dict[str, Any] = {}
    if "extends" in content:
        base = _read(path.parent / str(content.pop("extends")), (*extending, path))
    merged = base | content | {"overrides": [*base.get("overrides", []), *own]}
    if (below := _settings(base)) is not None and (above := _settings(content)) is not None:
        merged["cold_start"] = content["cold_start"] | {NANO: below | above}
    return merged


def _settings(content: dict[str, Any]) -> dict[str, Any] | None:
    """`cold_start.nano`, None where there is none."""
    start = content.get("cold_start")
    settings = start.get(NANO) if isinstance(start, dict) else None
    return settings if isinstance(settings, dict) else None


def _grid(content: dict[str, Any]) -> Grid:
    keys = {field.name for field in fields(Grid)} | {"seeds"}
    if unknown := content.keys() - keys:
        raise GridError(f"unknown keys {sorted(unknown)}, expected {sorted(keys)}")
    if missing := keys - content.keys() - {"overrides"}:
        raise GridError(f"the keys {sorted(missing)} are missing")
    name = _checked(content, "name", lambda value: isinstance(value, str) and _NAME.fullmatch(value), "a short name")
    steps = _checked(content, "steps", lambda value: _is_int(value) and value > 0, "a positive number")
    seeds = _checked(content, "seeds", _is_seeds, "a list of whole numbers, none twice")
    methods = _checked(content, "methods", lambda value: isinstance(value, dict) and value, "methods by name")
    return Grid(
        name=name,
        config_name=_checked(content, "config_name", lambda value: isinstance(value, str), "a name"),
        cold_start=read_cold_start(content["cold_start"]),
        steps=steps,
        overrides=read_overrides(content.get("overrides", []), "overrides"),
        methods=tuple(_method(str(method), value, seeds) for method, value in methods.items()),
    )


def _method(name: str, value: Any, seeds: list[int]) -> Method:
    if not _NAME.fullmatch(name):
        raise GridError(f"methods.{name}: expected a name of small letters, digits, '_', '-' and '.'")
    if isinstance(value, dict):
        if unknown := value.keys() - {"overrides", "seeds"}:
            raise GridError(f"methods.{name}: unknown keys {sorted(unknown)}, expected overrides and seeds")
        seeds = value.get("seeds", seeds)
        if not _is_seeds(seeds):
            raise GridError(f"methods.{name}.seeds: got {seeds!r}, expected a list of whole numbers, none twice")
        value = value.get("overrides", [])
    return Method(name, read_overrides(value, f"methods.{name}"), tuple(seeds))


def read_overrides(value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and "=" in item for item in value):
        raise GridError(f"{key}: got {value!r}, expected a list of Hydra overrides key=value")
    return tuple(value)


def read_cold_start(value: Any) -> Mapping[str, Any]:
    """Raises GridError where it is not what the module's docstring says."""
    if isinstance(value, dict) and value.keys() == {NANO} and isinstance(value[NANO], dict):
        kinds = {field.name: type(field.default) for field in fields(Settings)}
        for key, setting in value[NANO].items():
            if key not in kinds:
                raise GridError(f"cold_start.nano: unknown key {key!r}, expected some of {sorted(kinds)}")
            if not (_is_int(setting) or isinstance(setting, kinds[key])):
                raise GridError(f"cold_start.nano.{key}: got {setting!r}, expected {kinds[key].__name__}")
        return value
    files = value if isinstance(value, dict) and value.keys() == {"model", "train", "val"} else {}
    if files and all(isinstance(path, str) for path in files.values()):
        return files
    raise GridError(f"cold_start: got {value!r}, expected {{nano: {{…}}}} or {{model: …, train: …, val: …}}")


def _checked(content: dict[str, Any], key: str, good: Any, expected: str) -> Any:
    if not good(content[key]):
        raise GridError(f"{key}: got {content[key]!r}, expected {expected}")
    return content[key]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seeds(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_int, value)) and len(set(value)) == len(value)
