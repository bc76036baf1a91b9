"""`uvicorn app.main:app`, the documented way to start the service."""

import sys

from code_judge.api import create_app

STARTUP_FAILURE = 3
"""uvicorn's exit status for what would fail again: with --workers, its supervisor ends instead of trying for ever."""

try:
    app = create_app()
except ValueError as error:
    print(f"code-judge: error: {error}", file=sys.stderr)
    sys.exit(STARTUP_FAILURE)
