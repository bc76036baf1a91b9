"""Method × seed on one cold start: run the grid, collect its results, compare."""
