"""CLEANER: agentic RL on self-purified trajectories, as a plug-in for stock VeRL."""

TRAINER = "cleaner"
"""The plug-in's name in VeRL's table of trainers: `trainer.v1.trainer_mode=cleaner`."""
