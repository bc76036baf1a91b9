"""docs/tools.md says what the code does, and its examples run."""

import json
import re
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from foreign_tools import TOOLS
from loop_harness import TOKENIZER, ScriptedServer, make_config, rollback, run_loop
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY
from verl.tools.schemas import OpenAIFunctionToolSchema

from verl_cleaner.config import rollback_config
from verl_cleaner.rollout.lost_trajectory import FailurePolicy
from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, RollbackMixin, ToolAgentLoop
from verl_cleaner.rollout.tools import InfrastructureError, ToolContract
from verl_cleaner.rollout.tools.contract import CONFIGURABLE, contract_of
from verl_cleaner.rollout.tools.verdict import of_text

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
KEY = "actor_rollout_ref.rollout.multi_turn.tool_contracts"
ON = make_config(*rollback(), "data.max_prompt_length=9000")


def example(name):
    """What the example that defines `name` defines."""
    (source,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if f" {name}" in block)
    namespace = {"__name__": "example"}
    exec(source, namespace)
    return namespace


def schema(name, argument):
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    function = {"name": name, "description": "A tool.", "parameters": parameters}
    return OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})


def call(name, /, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


async def run(tools, *script):
    output, _ = await run_loop(ToolAgentLoop, ScriptedServer([*script, "Done."]), ON, tools=tools)
    record = output.extra_fields[RECORD_FIELD]
    return TOKENIZER.decode(output.response_ids), [attempt["kinds"] for attempt in record["attempts"]]


class Index(BaseHTTPRequestHandler):
    def do_GET(self):
        query = self.path.partition("q=")[2]
        status = 503 if query == "down" else 404 if query == "page" else 200
        body = json.dumps({"hits": [] if query == "nothing" else [f"all about {query}"]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def search():
    with HTTPServer(("127.0.0.1", 0), Index) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        config = {"url": f"http://127.0.0.1:{server.server_port}"}
        yield example("WebSearch")["WebSearch"](config, schema("web_search", "query"))
        server.shutdown()


async def test_http_search(search):
    for query, kind in (("nothing", "no_results"), ("page", "tool_error")):
        script = [f"A. {call('web_search', query=query)}", f"B. {call('web_search', query='cats')}"]
        text, kinds = await run([search], *script)
        assert kinds == [(kind,), (None,)]
        assert "all about cats" in text
    with pytest.raises(InfrastructureError, match=r"tool 'web_search': HTTPStatusError: .*503"):
        await run([search], f"A. {call('web_search', query='down')}")


async def test_stateful_interpreter():
    tool = example("Notebook")["Notebook"]({}, schema("notebook", "code"))
    script = [
        f"A. {call('notebook', code='x = [1]')}",
        f"B. {call('notebook', code='x.append(2); y')}",
        f"C. {call('notebook', code='x.append(3); print(x)')}",
    ]
    text, kinds = await run([tool], *script)
    assert kinds == [(None,), ("NameError",), (None,)]
    assert "[1, 3]" in text


async def test_function_tools():
    namespace = example("find_customer")
    tools = [FUNCTION_TOOL_REGISTRY[name] for name in ("find_customer", "send_reminder")]
    wrong, right = (call("find_customer", name=name) for name in ("Anne", "Ann"))
    text, kinds = await run(tools, f"A. {wrong}", f"A. {right}")
    assert kinds == [("tool_error",), (None,)]
    assert "ann@example.org" in text
    text, kinds = await run(tools, f"A. {call('send_reminder', address='a@b')}\n{wrong}")
    assert kinds == [(None, "tool_error")]
    assert namespace["SENT"] == ["a@b"]


async def test_a_loop_of_yours():
    assert issubclass(example("MyLoop")["MyLoop"], RollbackMixin)


def table(title):
    rows = re.search(rf"\n{re.escape(title)}\n\|---.*?\n(.*?)\n\n", f"{PAGE}\n\n", re.DOTALL)[1].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_every_field_of_a_contract_is_documented_with_its_default():
    documented = {name.strip("`"): default.strip("`") for name, default, _ in table("| field | default | meaning |")}
    default = ToolContract()
    assert documented == {name: str(getattr(default, name)) for name in CONFIGURABLE}


def test_the_documented_contracts_are_read(tmp_path):
    file = tmp_path / "contracts.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    (inline,) = re.findall(r"`'(\+\S+tool_contracts=\{.*\})'`", PAGE)
    from_file, given = (
        rollback_config(make_config(*rollback(), override).actor_rollout_ref.rollout.multi_turn).contracts
        for override in (f"+{KEY}={file}", inline)
    )
    assert given == {"web_search": {"timeout": 30}}
    contract = contract_of(Bare("web_search"), from_file)
    assert (contract.timeout, contract.on_status) == (30, {"403": "stop"})
    assert of_text("Error: no_results", contract.on_text) == "no_results"
    assert of_text("the rate limit was reached", contract.on_text) == "outage"
    with pytest.raises(ValueError, match=r"tool_contracts=\S+gone.yaml: expected a YAML file of contracts"):
        rollback_config({"tool_contracts": str(tmp_path / "gone.yaml")})


class Bare:
    def __init__(self, name):
        self.name = name


def test_the_failure_policy_is_documented_with_its_defaults():
    documented = {name.strip("`"): default.strip("`") for name, default, _ in table("| key | default | meaning |")}
    assert documented == {f"trainer.{field.name}": str(field.default) for field in fields(FailurePolicy)}


def test_the_suites_table_is_the_suite():
    assert table("| tool | what it is |") == [[f"`{name}`", TOOLS[name].about] for name in sorted(TOOLS)]
