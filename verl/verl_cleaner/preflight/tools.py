"""Checks of the tools. No tool is created: tools belong to the agent loops, which may run on other nodes."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_cleaner.preflight.data import agent_loops
from verl_cleaner.preflight.finding import Finding, error, refusal, warning
from verl_cleaner.preflight.names import MULTI_TURN, rolls_back
from verl_cleaner.saar.config import OtherLoops

_SINGLE = {"single_turn_agent"}


def contracts(config: DictConfig) -> Iterator[Finding]:
    """Checks the values only; whether the tools exist is checked on the nodes that run them."""
    from verl_cleaner.config import rollback_config
    from verl_cleaner.rollout.tools.contract import check_values

    given = config.actor_rollout_ref.rollout.multi_turn.get("tool_contracts")
    yield from refusal(f"{MULTI_TURN}.", lambda: check_values(rollback_config({"tool_contracts": given}).contracts))


def tool_calls(config: DictConfig) -> Iterator[Finding]:
    """Rollback repairs tool calls, so there must be tools."""
    if not rolls_back(config):
        return
    multi_turn, agent = config.actor_rollout_ref.rollout.multi_turn, config.actor_rollout_ref.rollout.agent
    loops = agent_loops(config)
    if loops is None:
        if agent.default_agent_loop in _SINGLE:
            yield warning(
                "whether rows name a loop with tools in their column agent_name is known to data.custom_cls only; "
                "rows that do not run in actor_rollout_ref.rollout.agent.default_agent_loop="
                f"{agent.default_agent_loop}, without tool calls and without rollback"
            )
    elif loops == _SINGLE:
        yield error(
            f"{MULTI_TURN}.enable_tool_rollback=True needs tool calls, but no row has a column agent_name that names a "
            f"loop with tools, and actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent "
            f"(multi_turn.enable={multi_turn.enable}), expected tool_agent; switch rollback off or tools on"
        )
    elif loops & _SINGLE and multi_turn.get("rollback_other_loops", OtherLoops.STOP) != OtherLoops.ALLOW:
        yield error(
            f"{MULTI_TURN}.enable_tool_rollback=True, but some rows run in the agent loop single_turn_agent, by their "
            "column agent_name or actor_rollout_ref.rollout.agent.default_agent_loop; nothing is repaired there, and "
            f"the run would stop at the first of them; give all rows a loop with SAAR, or set +{MULTI_TURN}."
            "rollback_other_loops=allow to sample these rows without rollback"
        )
    elif loops == {"tool_agent"} and not (multi_turn.tool_config_path or multi_turn.function_tool_path):
        yield error(
            f"{MULTI_TURN}.enable_tool_rollback=True needs tools, but {MULTI_TURN}.tool_config_path and "
            "function_tool_path are null; name your tools, or switch rollback off"
        )


def tools(config: DictConfig) -> Iterator[Finding]:
    """Checks that the files exist and that the modules of the classes can be found."""
    if agent_loops(config) == _SINGLE:
        return
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    for key in ("tool_config_path", "function_tool_path"):
        if path := multi_turn.get(key):
            try:
                _resolve(path)
            except OSError as failure:
                yield error(f"{MULTI_TURN}.{key}={path} cannot be loaded: {type(failure).__name__}: {failure}")
    where = f"{MULTI_TURN}.tool_config_path={multi_turn.tool_config_path}"
    try:
        entries = _entries(config)
    except OSError:
        return
    except Exception as failure:
        yield error(f"{where} is no YAML file with a list `tools`: {type(failure).__name__}: {failure}")
        return
    if multi_turn.tool_config_path and not entries:
        yield error(f"{where} names no tool; see conf/code_interpreter.yaml")
    for entry in entries:
        name = str(entry.get("class_name"))
        try:
            found = find_spec(name.rpartition(".")[0]) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            yield error(f"{where}: the module of class_name={name} is not found on this node's PYTHONPATH")


def judge(config: DictConfig) -> Iterator[Finding]:
    """Checks that the judge answers, if our code tool is among the tools."""
    from code_judge.client import JudgeOutage, check, judge_url

    if agent_loops(config) == _SINGLE:
        return
    try:
        entries = _entries(config)
    except Exception:  # `tools` reports it
        return
    ours = [entry for entry in entries if str(entry.get("class_name")).startswith("verl_cleaner.")]
    for url in sorted({judge_url((entry.get("config") or {}).get("url")) for entry in ours}):
        try:
            check(url)
        except JudgeOutage as outage:
            yield error(str(outage))


def _entries(config: DictConfig) -> list[Any]:
    path = config.actor_rollout_ref.rollout.multi_turn.tool_config_path
    return list(OmegaConf.load(_resolve(path)).tools) if path else []


def _resolve(path: str) -> str:
    from verl.utils.import_utils import resolve_config_path

    found = resolve_config_path(path)
    if not Path(found).is_file():
        raise FileNotFoundError(f"no such file: {found}")
    return str(found)
