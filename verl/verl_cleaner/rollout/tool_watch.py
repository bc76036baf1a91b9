"""Whether a tool ran, and what it raised: VeRL's loop only passes on text, which user code can imitate."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any


@dataclass(slots=True)
class Execution:
    started: bool = False
    error: Exception | None = None


_current: ContextVar[Execution] = ContextVar("execution")


def begin() -> Execution:
    """What the tool called next by this task will be noted on."""
    execution = Execution()
    _current.set(execution)
    return execution


def watch(tool: Any) -> None:
    """Note the executions of a VeRL tool, `BaseTool` or `FunctionTool`; once is enough, twice does no harm."""
    for name in ("execute", "call"):
        method = getattr(tool, name, None)
        if method is not None and not hasattr(method, "__wrapped__"):
            setattr(tool, name, _noted(method))


def _noted(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def noted(*args: Any, **kwargs: Any) -> Any:
        execution = _current.get()
        execution.started = True
        try:
            return await method(*args, **kwargs)
        except Exception as error:
            execution.error = error
            raise

    return noted
