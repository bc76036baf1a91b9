"""Changes to VeRL's engines: a CPU backend, attention, log-probs, and a log line about precision."""
