"""CLEANER: agentic RL on self-purified trajectories, as a plug-in for stock VeRL."""

import os

TRAINER = "cleaner"
"""The plug-in's name in VeRL's table of trainers: `trainer.v1.trainer_mode=cleaner`."""

TRAINERS = {
    TRAINER: "sync",
    "cleaner_colocate_async": "colocate_async",
    "cleaner_separate_async": "separate_async",
}
"""All names of the plug-in in that table, and the trainer of VeRL's that each extends."""


def platform_is_cpu() -> bool:
    """Whether VeRL chooses the CPU platform when it is imported, as VeRL reads the variable."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
