"""What is different in VeRL's engines: the CPU backend, attention, log-probs, precision."""
