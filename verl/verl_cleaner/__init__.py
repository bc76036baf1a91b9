"""CLEANER: agentic RL on self-purified trajectories, as a plug-in for stock VeRL."""
