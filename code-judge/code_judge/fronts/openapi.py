"""What the endpoints take and give: /openapi.json for programs, /docs for people.

The page is made here and loads nothing from elsewhere, so that it works in a cluster without a way out.
"""

import html
import json
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from code_judge.asgi import HTML, Reply, Request, Routes
from code_judge.fronts.sandbox_fusion import RunCode, RunCodeResult
from code_judge.sessions.wire import CellResult, GoTo, OpenSession, RunCell, SessionInfo, TakeSnapshot
from code_judge.wire import Batch, BatchResult, JudgeResult, RunBatchResult, RunResult, Submission

_EXTRA: dict[str, Any] = {
    "name": "extra",
    "in": "query",
    "required": False,
    "schema": {"type": "integer"},
    "description": "1: also the keys beyond the public contract (for results kind and line)",
}


class Endpoint(NamedTuple):
    """takes: what its body is. gives: a model, or an example of JSON; none: text."""

    method: str
    path: str
    summary: str
    takes: type[BaseModel] | None
    gives: type[BaseModel] | str | None


ENDPOINTS = (
    Endpoint("post", "/judge", "Run one program and compare what it prints", Submission, JudgeResult),
    Endpoint("post", "/run", "Run one program and return what it prints", Submission, RunResult),
    Endpoint("post", "/judge/batch", "Several; what cannot start soon is queue_timeout", Batch, BatchResult),
    Endpoint("post", "/run/batch", "Several, with what they print", Batch, RunBatchResult),
    Endpoint("post", "/judge/long-batch", "Several, however long it takes", Batch, BatchResult),
    Endpoint("post", "/run/long-batch", "Several, with what they print, however long it takes", Batch, RunBatchResult),
    Endpoint("post", "/run_code", "Run one program, as SandboxFusion does", RunCode, RunCodeResult),
    Endpoint("post", "/session", "Open a session", OpenSession, SessionInfo),
    Endpoint("get", "/session", "How many sessions are open", None, '{"sessions": 0}'),
    Endpoint("get", "/session/{id}", "What there is to know of a session", None, SessionInfo),
    Endpoint("delete", "/session/{id}", "End a session", None, '{"deleted": true}'),
    Endpoint("post", "/session/{id}/run", "Run a cell", RunCell, CellResult),
    Endpoint("post", "/session/{id}/snapshot", "Remember the state", TakeSnapshot, '{"snapshot": "name"}'),
    Endpoint("post", "/session/{id}/rollback", "Go back to a snapshot", GoTo, '{"snapshot": "name"}'),
    Endpoint("post", "/session/{id}/commit", "Give up a snapshot", GoTo, '{"committed": true}'),
    Endpoint("post", "/session/{id}/branch", "Open another session with that state", GoTo, SessionInfo),
    Endpoint("get", "/ping", "Whether this process can run programs", None, '"pong"'),
    Endpoint("get", "/ready", "Whether a submission would get a verdict", None, '{"ready": true}'),
    Endpoint("get", "/status", "Jobs not yet started; programs at a time", None, '{"queue": 0, "num_workers": 16}'),
    Endpoint("get", "/metrics", "For Prometheus", None, None),
)
_WITH_EXTRA = re.compile("/(judge|run|status)(/.*)?")
_REFUSALS = {
    "413": "the body is too large",
    "422": "the body does not fit; detail says where",
    "429": "the queue is full; Retry-After says when to come back",
}
_EXAMPLE = {"type": "python", "solution": "print(int(input()) * 2)", "input": "21", "expected_output": "42"}


class OpenApi:
    def __init__(self) -> None:
        description = describe()
        self._json = json.dumps(description).encode()
        self._page = page(description).encode()

    def add_to(self, routes: Routes) -> None:
        routes.add("GET", "/openapi.json", self._openapi)
        routes.add("GET", "/docs", self._docs)

    async def _openapi(self, _: Request) -> Reply:
        return Reply(self._json)

    async def _docs(self, _: Request) -> Reply:
        return Reply(self._page, content_type=HTML)


def describe() -> dict[str, Any]:
    """The OpenAPI document."""
    used = {model for one in ENDPOINTS for model in (one.takes, one.gives) if isinstance(model, type)}
    modes: Any = [(model, "validation") for model in sorted(used, key=lambda model: model.__name__)]
    _, found = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    paths: dict[str, Any] = {}
    for one in ENDPOINTS:
        operation: dict[str, Any] = {
            "summary": one.summary,
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"{(\w+)}", one.path)
            ],
            "responses": {"200": {"description": "OK", "content": _content(one.gives)}},
        }
        if _WITH_EXTRA.fullmatch(one.path):
            operation["parameters"].append(_EXTRA)
        if one.takes is not None:
            operation["requestBody"] = {"required": True, "content": _content(one.takes)}
            operation["responses"] |= {status: {"description": text} for status, text in _REFUSALS.items()}
        paths.setdefault(one.path, {})[one.method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "code-judge", "version": _version()},
        "paths": paths,
        "components": {"schemas": found["$defs"]},
    }


def page(description: dict[str, Any]) -> str:
    """The document as a page, with a form that sends requests."""
    rows = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody")
            given = _name(body["content"]) if body else ""
            returned = _name(operation["responses"]["200"]["content"])
            cells = (method.upper(), path, operation["summary"], given, returned)
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    schemas = "".join(
        f"<h3 id='{name}'>{name}</h3><p>{html.escape(schema.get('description', ''))}</p>{_keys(schema)}"
        for name, schema in sorted(description["components"]["schemas"].items())
        if "properties" in schema
    )
    posts = (path for path, methods in description["paths"].items() if "post" in methods and "{" not in path)
    paths = "".join(f"<option>{path}</option>" for path in posts)
    return _PAGE.format(rows="".join(rows), schemas=schemas, paths=paths, example=html.escape(json.dumps(_EXAMPLE)))


def _version() -> str:
    try:
        return version("code-judge")
    except PackageNotFoundError:
        return "0"


def _content(what: type[BaseModel] | str | None) -> dict[str, Any]:
    if what is None:
        return {"text/plain": {}}
    if isinstance(what, str):
        return {"application/json": {"example": json.loads(what)}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{what.__name__}"}}}


def _name(content: dict[str, Any]) -> str:
    """Of the model, or an example."""
    (value,) = content.values()
    reference = value.get("schema", {}).get("$ref", "")
    return reference.rpartition("/")[2] or (json.dumps(value["example"]) if "example" in value else "")


def _keys(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = (
        f"<tr><td>{key}</td><td>{html.escape(_type(value))}</td><td>{'yes' if key in required else ''}</td></tr>"
        for key, value in schema["properties"].items()
    )
    return f"<table><tr><th>key</th><th>type</th><th>required</th></tr>{''.join(rows)}</table>"


def _type(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_type(choice) for choice in value["anyOf"])
    if "enum" in value or "const" in value:
        return " or ".join(json.dumps(choice) for choice in value.get("enum", [value.get("const")]))
    if "$ref" in value:
        return str(value["$ref"].rpartition("/")[2])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    return str(value.get("type", "anything"))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>code-judge</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ border: 1px solid #ccc; padding: .2rem .5rem; text-align: left }}
textarea {{ width: 100%; height: 6rem }} pre {{ background: #f4f4f4; padding: .5rem; white-space: pre-wrap }}
</style></head><body>
<h1>code-judge</h1>
<p>The same as a document: <a href="openapi.json">openapi.json</a>.</p>
<table><tr><th></th><th>path</th><th>what it does</th><th>takes</th><th>gives</th></tr>{rows}</table>
<h2>Try it</h2>
<select id="path">{paths}</select> <label><input type="checkbox" id="extra"> extra keys</label>
<textarea id="body">{example}</textarea><button id="send">Send</button><pre id="reply"></pre>
<h2>What is sent</h2>{schemas}
<script>
const by = id => document.getElementById(id)
by("send").onclick = async () => {{
  const path = by("path").value.slice(1) + (by("extra").checked ? "?extra=1" : "")
  const headers = {{"content-type": "application/json"}}
  const reply = await fetch(path, {{method: "POST", headers, body: by("body").value}})
  by("reply").textContent = reply.status + " " + await reply.text()
}}
</script></body></html>
"""
