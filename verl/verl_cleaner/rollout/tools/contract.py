"""What SAAR has to know of a tool; every field has a default that suits a stateless tool.

A class or a function declares it:          The configuration overrides it, by the tool's name or for all ("*"):

    @tool_contract(idempotent=False)        +actor_rollout_ref.rollout.multi_turn.tool_contracts=
    class SendMail(BaseTool): ...               {send_mail: {idempotent: false}}
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from verl.tools.function_tool import FunctionTool

from verl_cleaner.saar.values import expect, is_number

ATTRIBUTE = "saar_contract"
EVERY_TOOL = "*"
Declared = TypeVar("Declared")


@dataclass(frozen=True, slots=True)
class ToolContract:
    """How SAAR may treat the calls of a tool, and what their results mean.

    A verdict is `ok`, `outage`, `stop` (an error that must end the run) or any other word: the kind of a fault of the
    model's.

    Attributes:
        idempotent: the same call may run again, with the same result. False: a turn in which it ran is not rolled back,
            unless the tool has `snapshot` and `restore`.
        stateful: calls depend on earlier calls of the trajectory, through state that is not in
            `agent_data.extra_fields`. Needs `snapshot` and `restore`, or `repairable=False`.
        repairable: SAAR may repair a failed call. False: its failures stay in the trajectory.
        timeout: seconds after which a call counts as an outage; None: the tool's own.
        on_exception: verdict by the class name of an exception or of one of its bases, plain or with its module.
        on_status: verdict by HTTP status: 404, or "4xx" for a hundred of them.
        on_text: verdict by a regular expression that is searched in the response. A group named `kind` says the kind.
        snapshot, restore, taken_back: hooks, plain or async; see `state`. None: the tool's methods of these names.
    """

    idempotent: bool = True
    stateful: bool = False
    repairable: bool = True
    timeout: float | None = None
    on_exception: Mapping[str, str] = field(default_factory=dict)
    on_status: Mapping[str, str] = field(default_factory=dict)
    on_text: Mapping[str, str] = field(default_factory=dict)
    snapshot: Callable[[Any], Any] | None = None
    restore: Callable[[Any, Any], Any] | None = None
    taken_back: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("idempotent", "stateful", "repairable"):
            expect(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        limit = self.timeout
        expect(limit is None or (is_number(limit) and limit > 0), "timeout", limit, "a number of seconds > 0 or null")
        for name in ("on_exception", "on_status", "on_text"):
            verdicts = getattr(self, name)
            if not isinstance(verdicts, Mapping) or not all(v and isinstance(v, str) for v in verdicts.values()):
                raise ValueError(
                    f"{name} must map to ok, outage, stop or the kind of a fault such as no_results, got {verdicts!r}"
                )
        object.__setattr__(self, "on_status", {str(key): verdict for key, verdict in self.on_status.items()})
        for status in self.on_status:
            if not re.fullmatch(r"[1-5](\d\d|xx)", status):
                raise ValueError(f"on_status must have keys such as 404 or 4xx, got {status!r}")
        for pattern in self.on_text:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"on_text: {pattern!r} is no regular expression: {error}") from error

    @property
    def restorable(self) -> bool:
        return self.snapshot is not None and self.restore is not None

    @property
    def reversible(self) -> bool:
        """A call that ran can be taken back and made again."""
        return self.restorable or (self.idempotent and not self.stateful)


_HOOKS = ("snapshot", "restore", "taken_back")
CONFIGURABLE = tuple(f.name for f in fields(ToolContract) if f.name not in _HOOKS)


def tool_contract(**values: Any) -> Callable[[Declared], Declared]:
    """Decorate a tool's class or function with its contract. Other decorators may stand above or below.

    Raises:
        ValueError, TypeError: for values that `ToolContract` refuses.
    """
    contract = ToolContract(**values)

    def declare(tool: Declared) -> Declared:
        setattr(tool, ATTRIBUTE, contract)
        return tool

    return declare


def contract_of(tool: Any, configured: Mapping[str, Mapping[str, Any]]) -> ToolContract:
    """What the tool declares, with the configuration's values for every tool and for this one on top.

    Args:
        tool: a tool as VeRL loads it.
        configured: values by the tool's name or EVERY_TOOL. Verdicts are added to the declared ones.

    Raises:
        ValueError: for values that `ToolContract` refuses, and for a tool that holds state, may be repaired, and has no
            way back; names the tool and the ways to mend it.
    """
    owner = tool.fn if isinstance(tool, FunctionTool) else tool
    declared = getattr(owner, ATTRIBUTE, None)
    contract = declared if isinstance(declared, ToolContract) else ToolContract()
    for name in (EVERY_TOOL, tool.name):
        contract = _changed(contract, configured.get(name) or {}, key=f"tool_contracts.{name}")
    if isinstance(declared, ToolContract) or contract.stateful:
        found = {name: getattr(owner, name, None) for name in _HOOKS if getattr(contract, name) is None}
        contract = replace(contract, **{name: hook for name, hook in found.items() if callable(hook)})
    if contract.stateful and contract.repairable and not contract.restorable:
        raise ValueError(
            f"tool {tool.name!r} holds state (stateful=True) and has no snapshot() and restore(): after a rollback it "
            "would remember calls that are no longer in the trajectory. Define snapshot(agent_data) and "
            "restore(agent_data, state), keep the state in agent_data.extra_fields (stateful=False), or declare "
            "repairable=False"
        )
    return contract


def check_values(configured: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError for values that `ToolContract` refuses, whatever the tool."""
    for name, values in configured.items():
        _changed(ToolContract(), values, key=f"tool_contracts.{name}")


def check_contracts(tools: Iterable[Any], configured: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError as `contract_of` does, and for a configured name that is no tool's."""
    names = [tool.name for tool in tools]
    for tool in tools:
        contract_of(tool, configured)
    unknown = sorted(set(configured) - {EVERY_TOOL, *names})
    if unknown:
        raise ValueError(
            f"tool_contracts names the tool {unknown[0]!r}; expected {', '.join(names) or 'no tool'} or {EVERY_TOOL!r}"
        )


def _changed(contract: ToolContract, values: Mapping[str, Any], *, key: str) -> ToolContract:
    unknown = sorted(set(values) - set(CONFIGURABLE))
    if unknown:
        raise ValueError(f"{key} knows no {unknown[0]!r}; expected {', '.join(CONFIGURABLE)}")
    merged = dict(values)
    for name, value in values.items():
        before = getattr(contract, name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            # The later verdicts come first: the first pattern that matches decides.
            merged[name] = {**value, **{k: v for k, v in before.items() if k not in value}}
    try:
        return replace(contract, **merged)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {error}") from error
