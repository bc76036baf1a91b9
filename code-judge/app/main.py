"""`uvicorn app.main:app`, the documented way to start the service."""

from code_judge.api import create_app

app = create_app()
