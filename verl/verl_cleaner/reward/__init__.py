"""Reward functions for VeRL's `reward.custom_reward_function`."""
