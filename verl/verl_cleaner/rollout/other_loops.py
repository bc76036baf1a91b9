"""Agent loops without SAAR in a run with rollback on: the run stops, or their trajectories travel as they are.

`actor_rollout_ref.rollout.agent.default_agent_loop` or the data's column `agent_name` names the loop of a row. A loop
without SAAR repairs nothing; that must not go unnoticed.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, _agent_loop_registry

from verl_cleaner.rollout.carried import MarkedOutput
from verl_cleaner.rollout.lost_trajectory import RolloutError
from verl_cleaner.saar.config import FailedCalls, OtherLoops, RollbackConfig

_SHOWN = 8
"""Rows that a message lists."""


def class_path(agent_name: str) -> str:
    """Raises RolloutError for a name that is not registered."""
    # VeRL registers its own when this module is imported.
    import verl.experimental.agent_loop  # noqa: F401

    entry: Mapping[str, Any] | None = _agent_loop_registry.get(agent_name)
    if entry is None:
        known = ", ".join(sorted(_agent_loop_registry))
        raise RolloutError(
            f"no agent loop is registered as {agent_name!r}, only {known}; check the data's column agent_name, "
            "agent.default_agent_loop and agent.agent_loop_config_path"
        )
    return str(entry["_target_"])


@cache
def _class_rolls_back(path: str) -> bool:
    from hydra.utils import get_object

    from verl_cleaner.rollout.tool_agent_loop import RollbackMixin

    loop = get_object(path)
    return isinstance(loop, type) and issubclass(loop, RollbackMixin)


def check_rows(agent_names: Sequence[str], rows: Sequence[Any], config: RollbackConfig, *, validate: bool) -> None:
    """Before a batch is sampled.

    Args:
        agent_names: one a row. rows: what the data calls them, in the same order.

    Raises:
        RolloutError: rollback is on, other loops are not allowed, and rows use one without SAAR; names loop and rows.
    """
    if not config.applies(validate=validate) or config.rollback_other_loops == OtherLoops.ALLOW:
        return
    for name in dict.fromkeys(agent_names):
        path = class_path(name)
        if not _class_rolls_back(path):
            concerned = [str(row) for row, used in zip(rows, agent_names, strict=True) if used == name]
            listed = ", ".join(concerned[:_SHOWN]) + (", ..." if len(concerned) > _SHOWN else "")
            raise RolloutError(
                f"enable_tool_rollback=True, but {len(concerned)} of {len(rows)} rows (extra_info.index {listed}) use "
                f"the agent loop {name!r} ({path}), which has no SAAR, so nothing would be repaired; derive it with "
                "class MyLoop(RollbackMixin, TheirLoop) from verl_cleaner.rollout.tool_agent_loop, or set "
                "+actor_rollout_ref.rollout.multi_turn.rollback_other_loops=allow to sample these rows without rollback"
            )


def as_marked(output: AgentLoopOutput, config: RollbackConfig, *, validate: bool) -> AgentLoopOutput:
    """The output with the fields that a trajectory of a loop with SAAR carries: all rows of a batch have the same."""
    if isinstance(output, MarkedOutput) or not config.applies(validate=validate):
        return output
    kept: dict[str, Any] = {}
    if config.save_negative_samples and not validate:
        kept["pairs"] = []
    if config.rollback_failed_calls == FailedCalls.LEAF and not validate:
        kept["leaves"] = []
    return MarkedOutput.model_construct(**dict(output), **kept)
