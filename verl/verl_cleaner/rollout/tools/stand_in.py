"""Stands in for a tool in one agent loop: runs its calls and notes how they ended.

VeRL's loop looks a tool up by name, creates an instance, executes the call and releases the instance; it catches what
the tool raises and turns it into text. The stand-in behaves as the tool does, and writes down how the call ended
(`Note`). The tool itself is not changed, so loops of other kinds can share it.
"""

import asyncio
import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool, normalize_function_tool_return
from verl.tools.schemas import ToolResponse

from verl_cleaner.rollout.tools import verdict as verdicts
from verl_cleaner.rollout.tools.contract import ToolContract
from verl_cleaner.saar.outcome import ToolOutcome

OUTCOME_KEY, STATUS_KEY = "outcome", "http_status"
"""What a tool may put into the third value that it returns."""


@dataclass(slots=True)
class Note:
    """How a call ended. ran: the tool's own code was reached. stop: an error that must end the run."""

    ran: bool = False
    outcome: ToolOutcome | None = None
    text: str = ""
    stop: BaseException | None = None


_note: ContextVar[Note | None] = ContextVar("note", default=None)


@contextmanager
def noted() -> Iterator[Note]:
    """Within it, the next call that this task makes is noted."""
    note = Note()
    token = _note.set(note)
    try:
        yield note
    finally:
        _note.reset(token)


class ToolStandIn(BaseTool):
    """tool: a BaseTool or a FunctionTool as VeRL loads it, decorated or not. All its attributes can be read here."""

    def __init__(self, tool: Any, contract: ToolContract) -> None:
        self.tool, self.contract = tool, contract
        self.name, self.tool_schema = tool.name, tool.tool_schema

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tool, name)

    async def create(self, *args: Any, **kwargs: Any) -> tuple[str, ToolResponse]:
        if isinstance(self.tool, FunctionTool):
            return str(uuid4()), ToolResponse()
        with self._outage_where_it_raises("create"):
            instance: tuple[str, ToolResponse] = await _settled(self.tool.create(*args, **kwargs))
            return instance

    async def release(self, *args: Any, **kwargs: Any) -> None:
        if not isinstance(self.tool, FunctionTool):
            with self._outage_where_it_raises("release"):
                await _settled(self.tool.release(*args, **kwargs))

    @contextmanager
    def _outage_where_it_raises(self, step: str) -> Iterator[None]:
        """The model has no part in `create` and `release`: an error there cannot be its fault."""
        try:
            yield
        except Exception as error:
            if note := _note.get():
                reason = f"tool {self.name!r}: {step}() failed: {type(error).__name__}: {error}"
                note.ran, note.outcome = True, ToolOutcome.outage(reason)
            raise

    async def execute(self, instance_id: str, parameters: Any, **kwargs: Any) -> tuple[ToolResponse, float, dict]:
        note = _note.get() or Note()
        note.ran = True
        given = copy.deepcopy(parameters)
        try:
            response, reward, details = await self._run(instance_id, parameters, **kwargs)
        except Exception as error:
            fits = verdicts.arguments_fit(self.tool_schema, given)
            self._judge(note, verdicts.of_exception(error, self.contract, arguments_fit=fits), error)
            raise
        note.text = response.text or ""
        note.outcome = self._returned(note, details)
        return response, reward, details

    async def _run(self, instance_id: str, parameters: Any, **kwargs: Any) -> tuple[ToolResponse, float, dict]:
        async with asyncio.timeout(self.contract.timeout):
            if isinstance(self.tool, FunctionTool):
                returned = await _settled(await self.tool.call(parameters))
            else:
                returned = await _settled(self.tool.execute(instance_id, parameters, **kwargs))
        if isinstance(returned, tuple) and len(returned) == 3:
            response, reward, details = returned
            if isinstance(details, ToolOutcome):
                details = {OUTCOME_KEY: details}
            if isinstance(response, ToolResponse):
                return response, reward, details or {}
            returned = response, reward, details
        triple: tuple[ToolResponse, float, dict] = normalize_function_tool_return(returned)
        return triple

    def _returned(self, note: Note, details: dict[str, Any]) -> ToolOutcome | None:
        """The outcome of a call that returned; None: the tool says nothing, so its text is looked at."""
        outcome, status = details.get(OUTCOME_KEY), details.get(STATUS_KEY)
        if isinstance(outcome, ToolOutcome):
            return outcome
        if isinstance(status, int) and (verdict := verdicts.of_status(status, self.contract)):
            self._judge(note, verdict, RuntimeError(f"HTTP status {status}"))
            return note.outcome
        return None

    def _judge(self, note: Note, verdict: str, error: BaseException) -> None:
        if verdict == verdicts.STOP:
            note.stop = error
            return
        reason = f"tool {self.name!r}: {type(error).__name__}: {error}"
        note.outcome = verdicts.as_outcome(verdict, reason)


async def _settled(value: Any) -> Any:
    """What a tool returns in the end: of an awaitable its result, of a generator the last thing it yields, or all of
    its texts."""
    while inspect.isawaitable(value):
        value = await value
    if inspect.isasyncgen(value):
        yielded: list[Any] = [item async for item in value]
    elif inspect.isgenerator(value):
        yielded = await asyncio.to_thread(list, value)
    else:
        return value
    if all(isinstance(item, str) for item in yielded):
        return "".join(yielded)
    return yielded[-1]
