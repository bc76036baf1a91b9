"""Cold start of larger models: a small model without a model hub, tool traces to fine-tune on, data for RL."""
