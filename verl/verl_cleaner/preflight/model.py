"""Checks of the model's folder, configuration and tokenizer, on the host where the trainer loads them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from verl_cleaner.preflight.data import agent_loops
from verl_cleaner.preflight.finding import Finding, error, warning
from verl_cleaner.preflight.names import MULTI_TURN
from verl_cleaner.saar.config import FailedCalls

_KEY = "actor_rollout_ref.model.path"

_TOOL_TOKENS = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
    "glm": ("<tool_call>", "</tool_call>"),
}
"""Per `multi_turn.format`: texts that are single tokens in most models trained on tool calls."""


def model(config: DictConfig) -> Iterator[Finding]:
    path = str(config.actor_rollout_ref.model.path)
    problem = _folder_problem(path)
    if problem:
        yield error(f"{_KEY}={path}{problem}; expected a Hugging Face model folder")
        return
    try:
        read = _read(config)
    except Exception as failure:
        yield error(f"{_KEY}={path} cannot be read: {type(failure).__name__}: {str(failure).splitlines()[0]}")
        return
    if read.processor is None:
        return
    leaf = config.actor_rollout_ref.rollout.multi_turn.get("rollback_failed_calls") == FailedCalls.LEAF
    for on, setting in (
        (config.algorithm.get("use_dpo_on_tool_calls", False), "algorithm.use_dpo_on_tool_calls=True"),
        (leaf, f"{MULTI_TURN}.rollback_failed_calls=leaf"),
    ):
        if on:
            yield error(f"{setting} is for text only, but {_KEY}={path} takes images as well")


def tool_format(config: DictConfig) -> Iterator[Finding]:
    """For agent loops with tools: VeRL parses `multi_turn.format`, and the tokenizer fits it."""
    from verl.experimental.agent_loop.tool_parser import ToolParser

    loops = agent_loops(config)
    if loops == {"single_turn_agent"}:
        return
    name = config.actor_rollout_ref.rollout.multi_turn.format
    if name not in ToolParser._registry:
        text = f"{MULTI_TURN}.format={name} is unknown, expected one of {', '.join(ToolParser._registry)}"
        own_loops = config.actor_rollout_ref.rollout.agent.agent_loop_config_path is not None
        if own_loops or loops != {"tool_agent"}:
            yield warning(f"{text}, or one that your agent loop registers")
        else:
            yield error(text)
    path = config.actor_rollout_ref.model.tokenizer_path or config.actor_rollout_ref.model.path
    if _folder_problem(str(config.actor_rollout_ref.model.path)):
        return
    try:
        read = _read(config)
    except Exception:  # `model` reports it
        return
    if read.processor is None and read.tokenizer.chat_template is None and read.custom_chat_template is None:
        yield error(f"the tokenizer in {path} has no chat template; name a chat model in {_KEY}")
    for token in _TOOL_TOKENS.get(name, ()):
        pieces = len(read.tokenizer.encode(token, add_special_tokens=False))
        if pieces != 1:
            yield warning(
                f"the tokenizer in {path} has no tool-call tokens for {MULTI_TURN}.format={name}: {token} is split "
                f"into {pieces} pieces. Calls are found all the same; a model that was not trained on this format will "
                "make few"
            )
            break


def _folder_problem(path: str) -> str | None:
    """None for a name on the hub and for an address with a scheme: VeRL fetches both."""
    folder = Path(path).expanduser()
    if "://" in path or (not folder.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", path)):
        return None
    if not folder.is_dir():
        return ": the folder does not exist"
    return None if (folder / "config.json").is_file() else " holds no config.json"


def _read(config: DictConfig) -> Any:
    """VeRL's model configuration, with tokenizer and processor."""
    from verl.utils.config import omega_conf_to_dataclass

    return omega_conf_to_dataclass(config.actor_rollout_ref.model)
