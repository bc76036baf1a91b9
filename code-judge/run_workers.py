"""`python run_workers.py`, the documented way to start workers."""

import sys

from code_judge.run_workers import main

if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"run_workers: error: {error}")
