"""Exceptions, statuses and texts of tools, row by row."""

import errno
import http.client
import socket
import ssl
import urllib.error

import aiohttp
import httpx
import pytest
import ray
import redis
import requests
from foreign_tools import schema

from verl_cleaner.rollout.tools import InfrastructureError, ToolContract, ToolOutcome
from verl_cleaner.rollout.tools.verdict import arguments_fit, as_outcome, of_exception, of_status, of_text

PLAIN = ToolContract()
URL = "http://tool"


def chained(error, cause, *, how="cause"):
    """error as it is raised from cause, or while cause is handled."""
    setattr(error, f"__{how}__", cause)
    error.__suppress_context__ = how == "cause"
    return error


def of_httpx(status):
    request = httpx.Request("GET", URL)
    return httpx.HTTPStatusError("status", request=request, response=httpx.Response(status, request=request))


def of_requests(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("status", response=response)


OUTAGES = [
    InfrastructureError("ours"),
    ConnectionError(),
    ConnectionResetError(),
    BrokenPipeError(),
    TimeoutError(),
    TimeoutError(),
    socket.gaierror(-2, "Name or service not known"),
    ssl.SSLError("bad certificate"),
    http.client.RemoteDisconnected(),
    http.client.IncompleteRead(b""),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("dropped"),
    requests.ConnectionError(),
    requests.ReadTimeout(),
    requests.exceptions.ChunkedEncodingError(),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError(),
    redis.ConnectionError(),
    redis.TimeoutError(),
    ray.exceptions.ActorDiedError(),
    *(of_httpx(status) for status in (401, 407, 408, 425, 429, 500, 503)),
    of_requests(502),
    urllib.error.HTTPError(URL, 503, "down", None, None),
    chained(urllib.error.URLError("refused"), ConnectionRefusedError(), how="context"),
    chained(RuntimeError("search failed"), httpx.ConnectError("refused")),
    chained(RuntimeError("search failed"), ConnectionError(), how="context"),
    chained(KeyError("a"), chained(ValueError("b"), TimeoutError())),
    ExceptionGroup("tasks", [ValueError("a"), ExceptionGroup("more", [ConnectionError()])]),
]
FAULTS = [
    ValueError("bad"),
    FileNotFoundError(errno.ENOENT, "no such file"),
    PermissionError(errno.EACCES, "not allowed"),
    ZeroDivisionError(),
    httpx.UnsupportedProtocol("foo://"),
    requests.exceptions.MissingSchema("no scheme"),
    http.client.InvalidURL("blank in it"),
    *(of_httpx(status) for status in (400, 403, 404, 422)),
    of_requests(404),
    chained(chained(ValueError("mine"), ConnectionError(), how="context"), None),
    ExceptionGroup("tasks", [ValueError("a"), KeyError("b")]),
]


@pytest.mark.parametrize("error", OUTAGES, ids=repr)
def test_outages(error):
    for fits in (True, False):
        assert of_exception(error, PLAIN, arguments_fit=fits) == "outage"


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_faults(error):
    assert of_exception(error, PLAIN, arguments_fit=True) == "tool_error"
    assert of_exception(error, PLAIN, arguments_fit=False) == "malformed_call"


@pytest.mark.parametrize(
    ("contract", "error", "verdict"),
    [
        ({"on_exception": {"TimeoutError": "timeout"}}, TimeoutError(), "timeout"),
        ({"on_exception": {"builtins.TimeoutError": "timeout"}}, TimeoutError(), "timeout"),
        ({"on_exception": {"OSError": "file"}}, FileNotFoundError(), "file"),
        ({"on_exception": {"OSError": "file", "FileNotFoundError": "no_file"}}, FileNotFoundError(), "no_file"),
        ({"on_exception": {"ValueError": "outage"}}, ValueError(), "outage"),
        ({"on_exception": {"StopIteration": "ok"}}, StopIteration(), "ok"),
        (
            {"on_exception": {"ConnectionError": "unreachable"}},
            chained(RuntimeError(), ConnectionError()),
            "unreachable",
        ),
        ({"on_status": {"404": "no_page"}}, of_httpx(404), "no_page"),
        ({"on_status": {404: "no_page", "4xx": "outage"}}, of_httpx(404), "no_page"),
        ({"on_status": {"4xx": "outage"}}, of_httpx(404), "outage"),
        ({"on_status": {503: "busy"}}, of_httpx(503), "busy"),
        ({"on_status": {401: "stop"}}, of_httpx(401), "stop"),
    ],
)
def test_a_contract_goes_before_the_defaults(contract, error, verdict):
    assert of_exception(error, ToolContract(**contract), arguments_fit=True) == verdict


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, None), (204, None), (302, None), (404, "tool_error"), (429, "outage"), (503, "outage")],
)
def test_statuses(status, verdict):
    assert of_status(status, PLAIN) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("fine", None),
        ("Error: no_results", "no_results"),
        ("first line\nError: no_results", "no_results"),
        ("no Error: here", None),
        ("the rate limit was reached", "outage"),
        ("Error: no_results; rate limit", "no_results"),
    ],
)
def test_texts(text, verdict):
    patterns = {r"^Error: (?P<kind>\w+)": "tool_error", r"(?P<kind>rate) limit": "outage"}
    assert of_text(text, patterns) == verdict


def test_verdicts_as_outcomes():
    assert as_outcome("ok", "why") == ToolOutcome()
    assert as_outcome("outage", "why") == ToolOutcome.outage("why")
    assert as_outcome("no_results", "why") == ToolOutcome.fault("no_results")
    with pytest.raises(RuntimeError, match="why"):
        as_outcome("stop", "why")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "a", "reason": "b"}, "a fault or an outage, got kind='a' and reason='b'"),
        ({"kind": ""}, "not be empty"),
    ],
)
def test_an_outcome_is_one_of_three(values, message):
    with pytest.raises(ValueError, match=message):
        ToolOutcome(**values)


@pytest.mark.parametrize(
    ("arguments", "fit"),
    [
        ({"query": "a"}, True),
        ({}, False),
        ({"query": "a", "more": 1}, False),
        ({"query": 3}, False),
        ({"query": None}, False),
        (["a"], False),
        (None, False),
    ],
)
def test_whether_arguments_fit_the_schema(arguments, fit):
    assert arguments_fit(schema("search"), arguments) == fit


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("integer", 3, "3"),
        ("number", 3, True),
        ("boolean", True, 1),
        ("array", [1], {"a": 1}),
        ("object", {"a": 1}, [1]),
        (["integer", "null"], None, "a"),
    ],
)
def test_types_of_arguments(kind, good, bad):
    made = schema("search")
    made.function.parameters.properties["query"].type = kind
    assert arguments_fit(made, {"query": good})
    assert not arguments_fit(made, {"query": bad})
