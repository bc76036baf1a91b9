"""Similarity-aware adaptive rollback (CLEANER, arXiv 2601.15141): its decisions, without any I/O.

    outcome     how a tool call ended, and whose fault it is
    gate        which trajectories may roll back
    policy      whether a failed turn is retried, and how many tokens the retry may have
    feedback    what the failed call's response says beside the error
    segment     where in a turn the tool call begins
    similarity  how close a retry is to what it repairs
    overwrite   which tokens the repaired turn is made of
    leaf        a failed call as one more member of its group
    pair        a failed call beside its repair
    record      what happened to a trajectory
    metrics     what happened to many
    config      the parameters of all of it
    values      what to say of a parameter that is wrong

Standard library only. `verl_cleaner.rollout.tool_agent_loop` is the shell that generates, runs tools and calls it.
"""
