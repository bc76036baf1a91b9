"""Learns from trajectories: the trainer, complete groups, credit for failed calls, losses, metrics."""
