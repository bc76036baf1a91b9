"""What a run reads: data, reward function, model, tokenizer, tools and the judge."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from verl_cleaner.preflight.names import MULTI_TURN, nearest, uses_tools

_MODEL = "actor_rollout_ref.model.path"

_OUR_DATASET = "pkg://verl_cleaner.dataset.rl_dataset"

_TOOL_TOKENS = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
    "glm": ("<tool_call>", "</tool_call>"),
}
"""Single tokens that a model trained on tool calls has, per `multi_turn.format`."""


def problems(config: DictConfig) -> Iterator[str]:
    needs, reward_problem = _reward(config)
    if reward_problem:
        yield reward_problem
    yield from _data(config, needs)
    yield from _model(config)
    if uses_tools(config):
        yield from _tools(config)


# ---- data and reward -------------------------------------------------------------------------------------------------


def _reward(config: DictConfig) -> tuple[tuple[str, ...], str | None]:
    """(the columns the reward function's module asks for in COLUMNS, what is wrong with it)."""
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.utils.import_utils import load_module

    path = config.reward.custom_reward_function.path
    if path is None:
        return (), None
    try:
        get_custom_reward_fn(config)
        return tuple(getattr(load_module(path), "COLUMNS", ())), None
    except Exception as error:
        cause = error.__cause__ or error
        name = config.reward.custom_reward_function.name
        return (), (
            f"reward.custom_reward_function.path={path} cannot be loaded or has no {name}: "
            f"{type(cause).__name__}: {cause}"
        )


def _data(config: DictConfig, needs: tuple[str, ...]) -> Iterator[str]:
    columns = [config.data.prompt_key, "data_source", "reward_model.ground_truth", *needs]
    if config.actor_rollout_ref.rollout.name == "cpu" or _rolls_back(config):
        # The seed of every random choice; rows without one would all share row 0's.
        columns.append("extra_info.index")
    for key in ("train_files", "val_files"):
        files = config.data[key]
        rows = 0
        complete = True
        for file in files if isinstance(files, (list, ListConfig)) else [files]:
            if config.data.custom_cls.path == _OUR_DATASET and file is not None and "://" not in file:
                count, found = _file_of_any_schema(f"data.{key}", file, config.data)
            else:
                count, found = _data_file(f"data.{key}", file, columns, custom=bool(config.data.custom_cls.path))
            yield from found
            rows += count
            complete &= not found and count > 0
        batch = config.data.train_batch_size
        if key == "train_files" and complete and rows < batch:
            yield f"data.train_files holds {rows} rows, fewer than data.train_batch_size={batch}; lower the batch size"


def _file_of_any_schema(key: str, file: str, data: DictConfig) -> tuple[int, list[str]]:
    """(rows, problems) of a file for `verl_cleaner.dataset.rl_dataset`, by its columns and sources."""
    from verl_cleaner.dataset import reading
    from verl_cleaner.dataset.schemas import check_sources
    from verl_cleaner.dataset.sources import load

    path = Path(file).expanduser()
    try:
        skip = bool(data.get("skip_broken_rows"))
        check_sources(path, load(data.get("prompt_sources")), skip_broken=skip)
        return reading.count(path) or 0, []
    except ValueError as error:
        return 0, [f"{key}: {error}"]


def _data_file(key: str, file: str | None, columns: list[str], *, custom: bool) -> tuple[int, list[str]]:
    """(rows, problems). Files elsewhere than on disk, and other formats than parquet, are left to VeRL."""
    if file is None:
        return 0, [f"{key} is null, expected a parquet file"]
    if "://" in file:
        return 0, []
    path = Path(file).expanduser()
    if not path.is_file():
        return 0, [f"{key}={file}: the file does not exist; expected a parquet file with {', '.join(columns)}"]
    if path.suffix != ".parquet":
        known = path.suffix in (".json", ".jsonl")
        return 0, [] if known else [f"{key}={file}: expected a .parquet, .json or .jsonl file"]
    import pyarrow.parquet as pq

    try:
        schema, rows = pq.read_schema(path), pq.read_metadata(path).num_rows
    except Exception as error:
        return 0, [f"{key}={file} is not a readable parquet file: {error}"]
    if rows == 0:
        return 0, [f"{key}={file} has no rows"]
    missing = [] if custom else [column for column in columns if not _has_column(schema, column)]
    return rows, [
        f"{key}={file}: the column {column} is missing; found {', '.join(schema.names)}"
        + (f" (is it {near}?)" if (near := nearest(column.split(".")[0], schema.names)) else "")
        for column in missing
    ]


def _has_column(schema: Any, column: str) -> bool:
    """`a.b` is the field b of the struct column a."""
    import pyarrow as pa

    name, _, rest = column.partition(".")
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return not rest or (pa.types.is_struct(kind) and kind.get_field_index(rest) >= 0)


def _rolls_back(config: DictConfig) -> bool:
    return config.actor_rollout_ref.rollout.multi_turn.get("enable_tool_rollback", False) is True


# ---- model and tokenizer ---------------------------------------------------------------------------------------------


def _model(config: DictConfig) -> Iterator[str]:
    from verl.utils.config import omega_conf_to_dataclass

    path = config.actor_rollout_ref.model.path
    folder = Path(path).expanduser()
    if "://" not in path and not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
            yield f"{_MODEL}={path}: the folder does not exist; expected a Hugging Face model folder"
            return
    elif "://" not in path and not (folder / "config.json").is_file():
        yield f"{_MODEL}={path} holds no config.json; expected a Hugging Face model folder"
        return
    try:
        model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    except Exception as error:
        yield f"{_MODEL}={path} cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}"
        return
    if uses_tools(config):
        yield from _tokenizer(model.tokenizer, config)
    if model.processor is not None and config.algorithm.get("use_dpo_on_tool_calls", False):
        yield f"algorithm.use_dpo_on_tool_calls=True is for text only, but {_MODEL}={path} takes images as well"


def _tokenizer(tokenizer: Any, config: DictConfig) -> Iterator[str]:
    from verl.experimental.agent_loop.tool_parser import ToolParser

    path = config.actor_rollout_ref.model.tokenizer_path or config.actor_rollout_ref.model.path
    format_ = config.actor_rollout_ref.rollout.multi_turn.format
    if format_ not in ToolParser._registry:
        yield f"{MULTI_TURN}.format={format_} is unknown, expected one of {', '.join(ToolParser._registry)}"
        return
    if tokenizer.chat_template is None and config.actor_rollout_ref.model.custom_chat_template is None:
        yield f"the tokenizer in {path} has no chat template; name a chat model in {_MODEL}"
    pieces = {
        token: tokenizer.tokenize(token)
        for token in _TOOL_TOKENS.get(format_, ())
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1
    }
    if pieces:
        token, split = next(iter(pieces.items()))
        yield (
            f"the tokenizer in {path} has no tool-call tokens for {MULTI_TURN}.format={format_}: {token} is split into "
            f"{len(split)} pieces; name a model with them in {_MODEL} (Qwen2.5 and Qwen3 have them), or the format it "
            "was trained on"
        )


# ---- tools and judge -------------------------------------------------------------------------------------------------


def _tools(config: DictConfig) -> Iterator[str]:
    from verl.tools.tool_registry import load_all_tools
    from verl.utils.import_utils import resolve_config_path

    from code_judge.client import JudgeOutage, check
    from verl_cleaner.rollout.code_interpreter import CodeInterpreter

    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    paths = {"tool_config_path": multi_turn.tool_config_path, "function_tool_path": multi_turn.function_tool_path}
    try:
        # VeRL prints every schema.
        with contextlib.redirect_stdout(io.StringIO()):
            tools = load_all_tools(**{key: resolve_config_path(path) if path else None for key, path in paths.items()})
    except Exception as error:
        given = " and ".join(f"{key}={path}" for key, path in paths.items() if path)
        yield f"{MULTI_TURN}: the tools of {given} cannot be loaded: {type(error).__name__}: {error}"
        return
    if not tools:
        path = multi_turn.tool_config_path
        yield f"{MULTI_TURN}.tool_config_path={path} names no tool; see conf/code_interpreter.yaml"
    for url in sorted({tool.client.url for tool in tools if isinstance(tool, CodeInterpreter)}):
        try:
            check(url)
        except JudgeOutage as error:
            yield str(error)
