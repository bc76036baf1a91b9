"""Tools as other people write them, each with a success, a fault of the model's and an outage.

A tool gets `query` and does what it says: "ok" succeeds, "fault" fails by the model's fault, "outage" by somebody
else's. `SECRET` is in what it says of an outage, `MARK` in what it says of a fault.
"""

import asyncio
import functools
import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import httpx
import pydantic
import requests
from PIL import Image
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import function_tool, get_function_tool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.utils.rollout_trace import rollout_trace_op

from verl_cleaner.rollout.tools import ToolOutcome, tool_contract

SECRET, MARK, DONE = "the machine room is on fire", "no such thing", "42"
URL = ""
"""Of the local server; set by `serving`."""


class Web(BaseHTTPRequestHandler):
    """A path is a status, `error-body`, `overloaded`, `hang` or `drop`."""

    def do_GET(self):
        path = self.path.strip("/")
        if path == "hang":
            time.sleep(6.0)
        if path in ("hang", "drop"):
            self.close_connection = True
            self.connection.close()
            return
        status = int(path) if path.isdigit() else 200
        texts = {200: DONE, 404: MARK}
        body = {"error-body": {"error": {"type": "no_results", "message": MARK}}, "overloaded": {"error": SECRET}}
        text = json.dumps(body[path]) if path in body else texts.get(status, SECRET)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    global URL
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        URL = f"http://127.0.0.1:{server.server_port}"
        yield
        server.shutdown()


def schema(name: str) -> OpenAIFunctionToolSchema:
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    function = {"name": name, "description": "A tool.", "parameters": parameters}
    return OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})


TOOLS: dict[str, "Foreign"] = {}


@dataclass(frozen=True)
class Foreign:
    """kind: of its fault. outage, fault: what `query` has to be for these. contract: what the configuration says."""

    tool: Any
    about: str
    kind: str = "tool_error"
    contract: dict[str, Any] = field(default_factory=dict)


def foreign(about: str, **rest: Any):
    """Register a class or a function as a tool named after it."""

    def register(made: Any):
        tool = made({}, schema(made.__name__)) if isinstance(made, type) else get_function_tool(made.__name__)
        TOOLS[tool.name] = Foreign(tool, about, **rest)
        return made

    return register


def logged(fn):
    """A decorator as everybody has one."""

    @functools.wraps(fn)
    async def wrapper(*args, **kwargs):
        return await fn(*args, **kwargs)

    return wrapper


class RetryError(Exception):
    """As tenacity raises it, from the last attempt's error."""


def retrying(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        for attempt in range(3):
            try:
                return fn(*args, **kwargs)
            except Exception as error:
                if attempt == 2:
                    raise RetryError("3 attempts failed") from error

    return wrapper


@foreign("`BaseTool` under VeRL's `rollout_trace_op`, httpx, 404 and 503")
class TracedSearch(BaseTool):
    @rollout_trace_op
    async def execute(self, instance_id, parameters, **kwargs):
        path = {"ok": "200", "fault": "404", "outage": "503"}[parameters["query"]]
        async with httpx.AsyncClient(trust_env=False) as client:
            reply = await client.get(f"{URL}/{path}")
        if reply.is_error:
            raise httpx.HTTPStatusError(f"{reply.status_code}: {reply.text}", request=reply.request, response=reply)
        return ToolResponse(text=reply.text), 0.0, {}


@foreign("`BaseTool` under two decorators with `functools.wraps`; wraps urllib's errors in its own")
class WrappedSearch(BaseTool):
    @logged
    @logged
    async def execute(self, instance_id, parameters, **kwargs):
        path = {"ok": "200", "fault": "404", "outage": "drop"}[parameters["query"]]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return ToolResponse(text=opener.open(f"{URL}/{path}").read().decode()), 0.0, {}
        except urllib.error.HTTPError as error:
            raise LookupError(error.read().decode()) from None
        except OSError:
            raise RuntimeError(SECRET)  # noqa: B904  as people write it


@foreign("`execute` is an async generator that yields progress and then its triple")
class Streaming(BaseTool):
    async def execute(self, instance_id, parameters, **kwargs):
        yield "searching ..."
        if parameters["query"] == "fault":
            raise ValueError(MARK)
        if parameters["query"] == "outage":
            raise ConnectionResetError(SECRET)
        yield ToolResponse(text=DONE), 0.0, {}


@foreign("plain function, requests, 429")
@function_tool
def requesting(query: str):
    """Search.

    Args:
        query: What to look for.
    """
    path = {"ok": "200", "fault": "404", "outage": "429"}[query]
    with requests.Session() as session:
        session.trust_env = False
        reply = session.get(f"{URL}/{path}")
    if not reply.ok:
        raise requests.HTTPError(reply.text, response=reply)
    return reply.text


@foreign("async function, aiohttp, the server drops the connection")
@function_tool
async def dropping(query: str):
    """Search.

    Args:
        query: What to look for.
    """
    if query == "fault":
        raise ValueError(MARK)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{URL}/{'drop' if query == 'outage' else 200}") as reply,
    ):
        return {"answer": await reply.text()}


@foreign("async generator function of texts")
@function_tool
async def chunks(query: str):
    """Search.

    Args:
        query: What to look for.
    """
    yield "4"
    if query == "fault":
        raise KeyError(MARK)
    if query == "outage":
        raise TimeoutError(SECRET)
    yield "2"


@foreign("function with retries inside, which raises its own error from the last one")
@function_tool
@retrying
def persistent(query: str):
    """Search.

    Args:
        query: What to look for.
    """
    if query == "fault":
        raise ArithmeticError(MARK)
    if query == "outage":
        raise requests.ConnectionError(SECRET)
    return DONE


@foreign("notebook with sessions of its own, and the hooks for them")
@tool_contract(stateful=True)
class Notebook(BaseTool):
    def __init__(self, *args):
        super().__init__(*args)
        self.sessions: dict[str, list[str]] = {}

    async def snapshot(self, agent_data):
        return list(self.sessions.setdefault(agent_data.request_id, []))

    async def restore(self, agent_data, state):
        self.sessions[agent_data.request_id] = state

    async def execute(self, instance_id, parameters, agent_data=None, **kwargs):
        self.sessions.setdefault(agent_data.request_id, []).append(parameters["query"])
        if parameters["query"] == "fault":
            raise NameError(MARK)
        if parameters["query"] == "outage":
            raise BrokenPipeError(SECRET)
        return ToolResponse(text=DONE), 0.0, {}


@foreign("session in `agent_data.extra_fields`")
class Cells(BaseTool):
    async def execute(self, instance_id, parameters, agent_data=None, **kwargs):
        agent_data.extra_fields.setdefault("cells", []).append(parameters["query"])
        if parameters["query"] == "fault":
            raise ZeroDivisionError(MARK)
        if parameters["query"] == "outage":
            raise OSError(28, SECRET)  # no space left on device
        return ToolResponse(text=DONE), 0.0, {}


PATTERNS = {"on_text": {r'"type": "(?P<kind>\w+)"': "tool_error", r'"error": "': "outage"}}


@foreign("HTTP 200 with an error in the body, handed on as text; patterns say what it means", kind="no_results", contract=PATTERNS)  # fmt: skip  # noqa: E501
class ErrorBody(BaseTool):
    async def execute(self, instance_id, parameters, **kwargs):
        path = {"ok": "200", "fault": "error-body", "outage": "overloaded"}[parameters["query"]]
        async with httpx.AsyncClient(trust_env=False) as client:
            return ToolResponse(text=(await client.get(f"{URL}/{path}")).text), 0.0, {}


@foreign("hangs; its contract gives it 1.5 s", contract={"timeout": 1.5})
class Hanging(BaseTool):
    async def execute(self, instance_id, parameters, **kwargs):
        if parameters["query"] == "fault":
            raise AttributeError(MARK)
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            reply = await client.get(f"{URL}/{'hang' if parameters['query'] == 'outage' else 200}")
        return ToolResponse(text=reply.text), 0.0, {}


@foreign("hangs; its own client gives up", kind="slow_program", contract={"on_exception": {"TooSlow": "slow_program"}})
@function_tool
def impatient(query: str):
    """Search.

    Args:
        query: What to look for.
    """

    class TooSlow(TimeoutError):
        pass

    if query == "fault":
        raise TooSlow(MARK)
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"{URL}/{'hang' if query == 'outage' else 200}", timeout=1.5).text


@foreign("returns images and no text")
class Painter(BaseTool):
    async def execute(self, instance_id, parameters, **kwargs):
        if parameters["query"] == "fault":
            return ToolResponse(text=MARK), None, ToolOutcome.fault()
        if parameters["query"] == "outage":
            return ToolResponse(text=SECRET), None, ToolOutcome.outage(SECRET)
        return ToolResponse(image=[Image.new("RGB", (6, 7))]), 0.0, {}


@foreign("takes its arguments apart", kind="TypeError")
class Mutating(BaseTool):
    async def execute(self, instance_id, parameters, **kwargs):
        query = parameters.pop("query")
        parameters["used"] = True
        if query == "fault":
            return ToolResponse(text=MARK), 0.0, {"outcome": ToolOutcome.fault("TypeError")}
        if query == "outage":
            raise httpx.ConnectError(SECRET)
        return ToolResponse(text=DONE), 0.0, {}


@foreign("creates a sandbox for each call, which fails where the outage is")
class Sandboxed(BaseTool):
    async def create(self, instance_id=None, **kwargs):
        if kwargs["create_kwargs"].get("down"):
            raise RuntimeError(SECRET)
        return await super().create(instance_id)

    async def execute(self, instance_id, parameters, **kwargs):
        if parameters["query"] == "outage":
            raise ExceptionGroup("two workers", [ValueError("one"), ConnectionRefusedError(SECRET)])
        if parameters["query"] == "fault":
            raise ExceptionGroup("two workers", [ValueError(MARK), KeyError("two")])
        return ToolResponse(text=DONE), 0.0, {}


@foreign("plain `def execute` that returns a bare text; says its status in HTTP's words")
class Plain(BaseTool):
    def execute(self, instance_id, parameters, **kwargs):
        status, text = {"ok": (200, DONE), "fault": (422, MARK), "outage": (502, SECRET)}[parameters["query"]]
        return text, 0.0, {"http_status": status}


class Query(pydantic.BaseModel):
    query: str = pydantic.Field(pattern="ok|outage")


@foreign("function that checks its arguments with pydantic and asks other tasks")
@function_tool
async def grouped(query: str):
    """Search.

    Args:
        query: What to look for.
    """
    if query == "fault":
        assert MARK
    Query(query=query)

    async def ask():
        if query == "outage":
            raise aiohttp.ServerDisconnectedError(SECRET)
        return DONE

    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask())
    return task.result()
