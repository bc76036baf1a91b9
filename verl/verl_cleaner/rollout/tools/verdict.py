"""What an exception, an HTTP status or a text of a tool means: a success, a fault of the model's, or an outage.

If the tool says nothing, these are outages: connections that fail, timeouts, the statuses 401, 407, 408, 425, 429 and
5xx, and a full disk. Any other exception is a fault, as VeRL shows it to the model; `malformed_call` where the
arguments are not those of the tool's schema. A text decides nothing unless a pattern of the contract matches it.
"""

import errno
import re
from collections.abc import Iterator, Mapping
from typing import Any

from verl_cleaner.rollout.tools.contract import ToolContract
from verl_cleaner.saar.outcome import FailureKind, InfrastructureError, ToolOutcome

OK, OUTAGE, STOP = "ok", "outage", "stop"

_OUTAGES = {
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "socket.gaierror",
    "socket.herror",
    "ssl.SSLError",
    "http.client.HTTPException",
    "httpx.TransportError",
    "httpcore.NetworkError",
    "httpcore.TimeoutException",
    "httpcore.ProtocolError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "requests.exceptions.ChunkedEncodingError",
    "urllib3.exceptions.HTTPError",
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "redis.exceptions.ConnectionError",
    "redis.exceptions.TimeoutError",
    "openai.APIConnectionError",
    "anthropic.APIConnectionError",
    "websockets.exceptions.ConnectionClosed",
    "concurrent.futures.process.BrokenProcessPool",
    "ray.exceptions.RayActorError",
    "ray.exceptions.WorkerCrashedError",
    "ray.exceptions.ObjectLostError",
    "ray.exceptions.GetTimeoutError",
}
_FAULTS = {"httpx.UnsupportedProtocol", "urllib3.exceptions.LocationValueError", "http.client.InvalidURL"}
"""Bases of these are outages, but they say that the address was wrong."""

_OUTAGE_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT),
}
_OUTAGE_STATUSES = {"401", "407", "408", "425", "429", "5xx"}


def of_exception(error: BaseException, contract: ToolContract, *, arguments_fit: bool) -> str:
    """The verdict on an exception that a call raised.

    What the contract says of the exception decides, then what is known of it, then the same for the exceptions that led
    to it and, for a group, for its members.
    """
    links = list(_links(error))
    for link in links:
        if verdict := _declared(link, contract):
            return verdict
    if any(_is_outage(link) for link in links):
        return OUTAGE
    return FailureKind.TOOL_ERROR if arguments_fit else FailureKind.MALFORMED_CALL


def of_status(status: int, contract: ToolContract) -> str | None:
    """The verdict on an HTTP status; None where neither the contract nor the defaults have one."""
    declared = _by_status(status, contract.on_status)
    if declared is not None:
        return declared
    if _by_status(status, dict.fromkeys(_OUTAGE_STATUSES, OUTAGE)):
        return OUTAGE
    return FailureKind.TOOL_ERROR if 400 <= status < 500 else None


def of_text(text: str, patterns: Mapping[str, str]) -> str | None:
    """The verdict of the first pattern that is found in the text; None where none is."""
    for pattern, verdict in patterns.items():
        match = re.search(pattern, text, re.MULTILINE)
        if match:
            kind = match.groupdict().get("kind")
            return kind if kind and verdict not in (OK, OUTAGE, STOP) else verdict
    return None


def as_outcome(verdict: str, reason: str) -> ToolOutcome:
    """reason: of an outage. Raises RuntimeError with it where the verdict is `stop`."""
    if verdict == STOP:
        raise RuntimeError(reason)
    if verdict == OUTAGE:
        return ToolOutcome.outage(reason)
    return ToolOutcome() if verdict == OK else ToolOutcome.fault(verdict)


def _declared(error: BaseException, contract: ToolContract) -> str | None:
    for cls in type(error).__mro__:
        for name in (f"{cls.__module__}.{cls.__qualname__}", cls.__name__):
            if name in contract.on_exception:
                return contract.on_exception[name]
    status = _status(error)
    return None if status is None else _by_status(status, contract.on_status)


def _is_outage(error: BaseException) -> bool:
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    if isinstance(error, InfrastructureError):
        return True
    if names & _FAULTS:
        return False
    if isinstance(error, OSError) and error.errno in _OUTAGE_ERRNOS:
        return True
    status = _status(error)
    if status is not None:
        return of_status(status, ToolContract()) == OUTAGE
    return bool(names & _OUTAGES)


def _by_status(status: int, verdicts: Mapping[str, str]) -> str | None:
    return verdicts.get(str(status)) or verdicts.get(f"{status // 100}xx")


def _status(error: BaseException) -> int | None:
    """The HTTP status that the exceptions of httpx, requests, aiohttp, urllib and most clients carry."""
    for owner in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "code"):
            status = getattr(owner, name, None)
            if isinstance(status, int) and not isinstance(status, bool) and 100 <= status < 600:
                return status
    return None


def _links(error: BaseException | None, seen: frozenset[int] = frozenset()) -> Iterator[BaseException]:
    """The exception, the members of a group, and what led to each, nearest first."""
    while error is not None and id(error) not in seen:
        seen |= {id(error)}
        yield error
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                yield from _links(member, seen)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def arguments_fit(schema: Any, arguments: Any) -> bool:
    """Whether the arguments are an object with the names and JSON types of the tool's schema."""
    parameters = schema.function.parameters
    if not isinstance(arguments, dict) or not set(parameters.required) <= set(arguments) <= set(parameters.properties):
        return False
    return all(_has_type(value, parameters.properties[name].type) for name, value in arguments.items())


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _has_type(value: Any, expected: str | list[str]) -> bool:
    names = [expected] if isinstance(expected, str) else expected
    if not all(name in _TYPES for name in names):
        return True
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)
