"""Changes that `verl_cleaner.main_ppo` makes to the configuration: our defaults, and keys that VeRL does not read."""

import logging

from omegaconf import DictConfig, OmegaConf, open_dict

from verl_cleaner.dataset.lengths import TOOL_CONFIG
from verl_cleaner.enable import enable
from verl_cleaner.preflight.names import FSDP_SECTIONS, STOCK_DTYPE, dtype_name

logger = logging.getLogger(__name__)


def prepare(config: DictConfig) -> None:
    """Change `config` in place, and log the changes.

    First `verl_cleaner.enable`; then
    multi_turn.enable=False       sets the agent loop single_turn_agent, as V1 reads only the agent loop
    multi_turn.tool_config_path   is set to ours, for the loop tool_agent without tools and functions
    *.fsdp_config.dtype           is copied to mixed_precision.param_dtype, the only key that FSDP reads
    """
    enable(config)
    rollout = config.actor_rollout_ref.rollout
    multi_turn = rollout.multi_turn
    if not multi_turn.enable and rollout.agent.default_agent_loop == "tool_agent":
        rollout.agent.default_agent_loop = "single_turn_agent"
        logger.info("multi_turn.enable=False: agent.default_agent_loop=single_turn_agent")
    no_tools = multi_turn.tool_config_path is None and multi_turn.function_tool_path is None
    if no_tools and rollout.agent.default_agent_loop == "tool_agent":
        multi_turn.tool_config_path = str(TOOL_CONFIG)
    for section in FSDP_SECTIONS:
        _translate_dtype(config, section)


def _translate_dtype(config: DictConfig, section: str) -> None:
    engine = OmegaConf.select(config, f"{section}.fsdp_config")
    if engine is None or engine.dtype == STOCK_DTYPE:
        return
    name = dtype_name(engine.dtype)
    mixed_precision = engine.get("mixed_precision") or {}
    if name is None or mixed_precision.get("param_dtype") is not None:
        return
    with open_dict(engine):
        engine.mixed_precision = {**mixed_precision, "param_dtype": name}
    logger.info("%s.fsdp_config: dtype=%s, so mixed_precision.param_dtype=%s", section, engine.dtype, name)
