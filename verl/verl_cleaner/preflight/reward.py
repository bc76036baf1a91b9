"""Checks of the reward function. They read the user's code and do not run it: only reward workers may."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from verl_cleaner.preflight.finding import Finding, error

_OURS = "pkg://verl_cleaner."


def function(config: DictConfig) -> Iterator[Finding]:
    given = config.reward.custom_reward_function
    if given.path is None:
        return
    where = f"reward.custom_reward_function.path={given.path}"
    try:
        source = _source(str(given.path))
    except (OSError, ImportError, ValueError) as failure:
        yield error(f"{where} cannot be loaded: {type(failure).__name__}: {failure}")
        return
    if source is None:
        return
    try:
        names = _top_level_names(ast.parse(source))
    except SyntaxError as failure:
        yield error(f"{where} is not Python: line {failure.lineno}: {failure.msg}")
        return
    if names is not None and given.name not in names:
        yield error(f"{where} has no {given.name}; it defines {', '.join(sorted(names)) or 'nothing'}")


def needed_columns(config: DictConfig) -> tuple[str, ...]:
    """Columns of the data that the reward reads: two for VeRL's reward managers, none for a reward model; our own
    reward functions name theirs."""
    own = config.reward.custom_reward_function.path
    managers_own = config.reward.reward_manager.source == "register"
    scored_by_model = config.reward.reward_model.enable and own is None
    columns = ("data_source", "reward_model.ground_truth") if managers_own and not scored_by_model else ()
    if own is not None and str(own).startswith(_OURS):
        from verl.utils.import_utils import load_module

        columns += tuple(getattr(load_module(own), "COLUMNS", ()))
    return columns


def _source(path: str) -> str | None:
    """None where the module is no source file."""
    if path.startswith("pkg://"):
        name = path.removeprefix("pkg://").replace("/", ".")
        spec = find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"no module named {name}")
        path = spec.origin or ""
        if not path.endswith(".py"):
            return None
    return Path(path.removeprefix("file://")).read_text()


def _top_level_names(tree: ast.Module) -> set[str] | None:
    """None where a star import hides names."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            if any(alias.name == "*" for alias in node.names):
                return None
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names
