"""Runs and judges code for reinforcement learning: a service, and a client that retries."""
