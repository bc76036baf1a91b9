"""The service's settings, from the environment under the names its users know."""

import os
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings

from code_judge.public_settings import check_environment, compile_command

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")


class Settings(BaseSettings):
    """max_execution_time: seconds a submission may run, by the clock and on the CPU. max_memory: MB of address space.
    max_stdout_error_length: characters of stdout and of stderr returned. max_workers: submissions that run at a time.
    max_queue_work_life_time: seconds a single or batch submission may wait to be started;
    long_batch_max_queue_wait_time: one of a long batch. max_queue: programs that may wait or run; a test is one.
    max_files_size: bytes of a submission's files, and of those that are fetched. body_timeout: seconds a request's body
    may take. code_judge_token: what clients must bring, several with commas; empty, nothing. run_workers: whether the
    process that serves HTTP runs programs as well. redis_key_prefix: services with different ones share a Redis.
    drain_time: seconds that a worker which is told to end waits for its programs. max_deliveries: workers that may die
    of a submission before it is given up. redis_patience: seconds without Redis after which its submissions are
    answered as failed. cpp_compile_command: see public_settings.compile_command. cpp_compile_time, cpp_compile_memory:
    its limits, s and MB. max_sessions: open at a time; branches count; the processes of run_workers.py share them.
    session_ttl: seconds without a call after which a session ends. code_judge_python, code_judge_warm: see
    sandbox/interpreter.py. code_judge_require_isolation: see sandbox.pool.check_isolation."""

    max_execution_time: float = Field(default=10, gt=0)
    max_memory: int = Field(default=256, ge=64)
    max_stdout_error_length: int = Field(default=1000, ge=0)
    max_workers: int = Field(default_factory=lambda: max(16, 8 * cores()), ge=1)
    max_queue_work_life_time: float = Field(default=10, gt=0)
    long_batch_max_queue_wait_time: float = Field(default=3600, gt=0)
    max_body_size: int = Field(default=64 << 20, ge=1)
    max_files_size: int = Field(default=16 << 20, ge=0, le=48 << 20)
    max_queue: int = Field(default=100_000, ge=1)
    body_timeout: float = Field(default=60, gt=0)
    code_judge_token: str = ""
    max_output_size: int = Field(default=1 << 20, ge=1)
    redis_uri: str | None = None
    redis_key_prefix: str = Field(default="code-judge", pattern=r"^[^{}\s]+$")
    run_workers: int = Field(default_factory=lambda: 1, ge=0)
    drain_time: float = Field(default=30, ge=0)
    max_deliveries: int = Field(default=3, ge=1)
    redis_patience: float = Field(default=5, gt=0)
    max_sessions: int = Field(default=1000, ge=0, le=4000)
    session_ttl: float = Field(default=1800, gt=0)
    code_judge_python: str = ""
    code_judge_warm: str = ""
    code_judge_require_isolation: str = ""
    cpp_compile_command: str = "g++ -O2 -std=c++17"
    cpp_compile_time: float = Field(default=30, gt=0)
    cpp_compile_memory: int = Field(default=1024, ge=64)

    @property
    def tokens(self) -> list[str]:
        return [token.strip() for token in self.code_judge_token.split(",") if token.strip()]

    @model_validator(mode="before")
    @classmethod
    def _as_the_public_service(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Defaults that depend on other settings: with Redis, programs run in `run_workers.py`; 0 slots are as many as
        by default; an empty variable is none."""
        values = {name: value for name, value in values.items() if value != ""}
        values.setdefault("run_workers", 0 if values.get("redis_uri") else 1)
        if str(values.get("max_workers")) == "0":
            del values["max_workers"]
        if path := os.environ.get("CPP_COMPILER_PATH"):
            values.setdefault("cpp_compile_command", f"{path} -O2 -std=c++17")
        return values


def load_settings() -> Settings:
    """Raises ValueError naming the variable, its value and what is expected."""
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        raise ValueError(f"{name}={first['input']!r} is not accepted: {first['msg']}") from None
    if settings.redis_uri is not None:
        scheme = settings.redis_uri.partition("://")[0]
        if scheme not in REDIS_SCHEMES:
            raise ValueError(f"REDIS_URI must begin with one of {', '.join(REDIS_SCHEMES)} and '://', got {scheme!r}")
    elif not settings.run_workers:
        raise ValueError("RUN_WORKERS=0 needs a REDIS_URI: without Redis nobody else can run the submissions")
    compile_command(settings.cpp_compile_command)
    check_environment(os.environ)
    return settings


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
