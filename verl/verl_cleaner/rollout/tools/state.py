"""The state that tools keep of a trajectory beside its tokens; it is restored when a turn's calls are taken back.

VeRL lets tools keep session data in `agent_data.extra_fields`, which are copied. A tool that keeps state elsewhere
declares `stateful=True` and has hooks, plain or async:

    snapshot(agent_data)             before the turn's calls run: returns what `restore` needs
    restore(agent_data, state)       after the turn was taken back, before its repaired calls run
    taken_back(agent_data, arguments)   optional, for any tool: this call is no longer in the trajectory
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData

from verl_cleaner.rollout.tools.stand_in import ToolStandIn
from verl_cleaner.saar.outcome import InfrastructureError


@dataclass(frozen=True, slots=True)
class ToolState:
    """extra_fields: copies. sessions: (tool, what its `snapshot` returned), of the tools with hooks that are called."""

    extra_fields: Mapping[str, Any]
    sessions: tuple[tuple[ToolStandIn, Any], ...]

    @classmethod
    async def of(cls, agent_data: AgentData, called: Iterable[ToolStandIn]) -> "ToolState":
        """Raises ValueError for session data that cannot be copied, where no tool that is called has hooks for them."""
        called = list({id(tool): tool for tool in called}.values())
        restorable = [tool for tool in called if tool.contract.restorable]
        sessions = [(tool, await _ask(tool, tool.contract.snapshot, agent_data)) for tool in restorable]
        copies = {name: _copy(name, value, strict=not restorable) for name, value in agent_data.extra_fields.items()}
        return cls(copies, tuple(sessions))

    def changed(self, agent_data: AgentData) -> bool:
        """Whether the calls that ran since then left something in `extra_fields`."""
        try:
            return bool(dict(agent_data.extra_fields) != dict(self.extra_fields))
        except Exception:  # values such as arrays do not compare to one truth value
            return True

    async def restore(
        self,
        agent_data: AgentData,
        *,
        calls: Iterable[tuple[ToolStandIn, Any]],
        generated: Mapping[str, Any],
    ) -> None:
        """Go back.

        Args:
            calls: (tool, arguments) of each call that ran, in the order in which it was written.
            generated: extra fields that the rollout engine has set since; they stay.
        """
        agent_data.extra_fields.clear()
        agent_data.extra_fields.update(self.extra_fields)
        agent_data.extra_fields.update(generated)
        for tool, state in reversed(self.sessions):
            await _ask(tool, tool.contract.restore, agent_data, state)
        for tool, arguments in reversed(list(calls)):
            if tool.contract.taken_back is not None:
                await _ask(tool, tool.contract.taken_back, agent_data, arguments)


async def _ask(tool: ToolStandIn, hook: Callable[..., Any] | None, *args: Any) -> Any:
    assert hook is not None
    try:
        answer = hook(*args)
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        name = getattr(hook, "__name__", "a hook")
        raise InfrastructureError(f"tool {tool.name!r}: {name}() failed: {type(error).__name__}: {error}") from error


def _copy(name: str, value: Any, *, strict: bool) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:
        if strict:
            raise ValueError(
                f"agent_data.extra_fields[{name!r}] cannot be copied ({type(error).__name__}: {error}), so a rollback "
                "could not restore it; keep plain data there, or give the tool snapshot(agent_data) and "
                "restore(agent_data, state)"
            ) from error
        return value


def set_since(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of `now` that are not the same object as in `before`."""
    missing = object()
    return {name: value for name, value in now.items() if before.get(name, missing) is not value}
