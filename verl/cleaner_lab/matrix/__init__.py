"""Which set-ups train: every cell of engine × settings runs a few steps, and one table says what came of each."""
