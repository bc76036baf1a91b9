"""Our own experiments: the nano policy of the quickstart, grids of runs, cold starts.

Imports `verl_cleaner`; nothing imports it.
"""
