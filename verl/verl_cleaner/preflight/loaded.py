"""VeRL logs a plug-in that fails to load at DEBUG level and goes on without it; here it is an error."""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points

GROUP, NAME, MODULE = "verl.plugins", "cleaner", "verl_cleaner.plugin"


def problems() -> Iterator[str]:
    """Of this process, whose environment the workers inherit."""
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    if policy != "auto" and NAME not in policy.split(","):
        yield (
            f"VERL_USE_EXTERNAL_PLUGINS={policy} keeps VeRL from loading this plug-in, expected auto or a list with "
            f"{NAME}; unset it"
        )
        return
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if NAME not in found:
        yield (
            f"the entry point {NAME} = {MODULE} is missing in the group {GROUP} (found: {sorted(found) or 'none'}), so "
            "VeRL's workers would run without this plug-in; install the package: pip install -e verl/"
        )
        return
    try:
        plugin = found[NAME].load()
    except Exception as error:
        yield f"the plug-in {MODULE} fails to load: {type(error).__name__}: {error}"
        return
    for missing in _not_registered(plugin):
        yield f"the plug-in is loaded, but {missing}; is VeRL's version the locked one (0.9.1)?"


def _not_registered(plugin: object) -> Iterator[str]:
    import verl.trainer.ppo.v1.trainer_sync  # noqa: F401  the registries fill as VeRL's modules are imported
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    if sys.modules.get(MODULE) is not plugin:
        yield f"VeRL loaded another module than {MODULE}"
    loop = _agent_loop_registry.get("tool_agent", {}).get("_target_", "")
    if loop != "verl_cleaner.rollout.tool_agent_loop.ToolAgentLoop":
        yield f"the agent loop tool_agent is {loop or 'not registered'}"
    trainer = TRAINER_REGISTRY.get("cleaner")
    if trainer is None or not trainer.__module__.startswith("verl_cleaner."):
        yield "the trainer cleaner is not registered"
