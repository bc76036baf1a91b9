"""A grid of training runs, method × seed from one cold start, and what it says."""
