"""A policy small enough to train on two CPU cores, and the tasks it learns on.

tasks       reasoning-gym families, as VeRL's data sets
solutions   for each task Python that prints the answer
traces      solutions by tool calls, with the mistakes models make and their corrections
tokenizer   vocabulary and chat template
cold_start  trains the policy on the traces and saves everything a run needs
"""
