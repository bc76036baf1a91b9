"""Tools that know nothing of SAAR, in four situations: the right outcome every time."""

import json

import pytest
from foreign_tools import DONE, MARK, SECRET, TOOLS, serving
from loop_harness import TOKENIZER, ScriptedServer, make_config, rollback, run_loop
from omegaconf import OmegaConf, open_dict
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop as StockToolAgentLoop
from verl.tools.schemas import ToolResponse

from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, RollbackMixin
from verl_cleaner.saar.outcome import InfrastructureError

pytestmark = pytest.mark.usefixtures("web")
NAMES = sorted(TOOLS)
ANSWER = "I see."


@pytest.fixture(scope="module")
def web():
    with serving():
        yield


class CaptionLoop(StockToolAgentLoop):
    """Somebody's loop: the policy cannot see images, so it reads their size."""

    async def _call_tool(self, tool_call, tools_kwargs, agent_data):
        response, reward, details = await super()._call_tool(tool_call, tools_kwargs, agent_data)
        if response.image:
            width, height = response.image[0].size
            response = ToolResponse(text=str(width * height))
        return response, reward, details


class Repairing(RollbackMixin, CaptionLoop):
    pass


def call_of(name, query):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'query': query}})}\n</tool_call>"


def config_of(*names, **values):
    config = make_config(*rollback(**values), "data.max_prompt_length=9000").copy()
    with open_dict(config):
        contracts = {name: dict(TOOLS[name].contract) for name in names}
        OmegaConf.update(config, "actor_rollout_ref.rollout.multi_turn.tool_contracts", contracts, force_add=True)
    return config


async def run(name, *queries, script=(), **values):
    server = ScriptedServer(["Now. " + "\n".join(call_of(name, query) for query in queries), *script])
    output, _ = await run_loop(Repairing, server, config_of(name, **values), tools=[TOOLS[name].tool])
    return server, output, output.extra_fields[RECORD_FIELD]


@pytest.mark.parametrize("name", NAMES)
async def test_a_success_is_never_repaired(name):
    server, output, record = await run(name, "ok", script=[ANSWER])
    assert DONE in TOKENIZER.decode(output.response_ids)
    assert [attempt["kinds"] for attempt in record["attempts"]] == [(None,)]
    assert (record["retries"], len(server.contexts)) == ([], 2)


@pytest.mark.parametrize("name", NAMES)
async def test_a_fault_of_the_models_is_repaired(name):
    _, output, record = await run(name, "fault", script=[f"Again. {call_of(name, 'ok')}", ANSWER])
    assert [attempt["kinds"] for attempt in record["attempts"]] == [(TOOLS[name].kind,), (None,)]
    assert (record["recovered"], record["failed"]) == (1, 0)
    text = TOKENIZER.decode(output.response_ids)
    assert DONE in text
    assert MARK not in text


@pytest.mark.parametrize("name", NAMES)
async def test_an_outage_is_never_shown_to_the_model(name):
    server = ScriptedServer([f"Now. {call_of(name, 'outage')}", ANSWER])
    with pytest.raises(InfrastructureError):
        await run_loop(Repairing, server, config_of(name), tools=[TOOLS[name].tool])
    assert len(server.contexts) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", [("fault", "outage"), ("ok", "outage", "fault")])
async def test_an_outage_beside_a_fault_is_an_outage(name, queries):
    with pytest.raises(InfrastructureError):
        await run(name, *queries)


@pytest.mark.parametrize("name", NAMES)
async def test_a_success_beside_a_fault_is_repaired_with_it(name):
    retry = f"Again. {call_of(name, 'ok')}\n{call_of(name, 'ok')}"
    _, output, record = await run(name, "ok", "fault", script=[retry, ANSWER])
    assert [attempt["kinds"] for attempt in record["attempts"]] == [(None, TOOLS[name].kind), (None, None)]
    assert MARK not in TOKENIZER.decode(output.response_ids)


@pytest.mark.parametrize("name", NAMES)
async def test_wrong_arguments_are_a_malformed_call(name):
    broken = f'<tool_call>\n{{"name": "{name}", "arguments": {{"q": "ok"}}}}\n</tool_call>'
    server = ScriptedServer([f"Now. {broken}", f"Again. {call_of(name, 'ok')}", ANSWER])
    output, _ = await run_loop(Repairing, server, config_of(name), tools=[TOOLS[name].tool])
    assert output.extra_fields[RECORD_FIELD]["attempts"][0]["kinds"] == ("malformed_call",)


@pytest.mark.parametrize("name", ["TracedSearch", "requesting", "persistent"])
async def test_rollback_off_shows_what_verl_shows(name):
    script = [f"Now. {call_of(name, 'fault')}\n{call_of(name, 'ok')}", ANSWER]
    off = make_config("data.max_prompt_length=9000")
    stock, ours = [
        (await run_loop(cls, ScriptedServer(script), off, tools=[TOOLS[name].tool]))[0]
        for cls in (CaptionLoop, Repairing)
    ]
    assert stock.response_ids == ours.response_ids
    assert stock.response_mask == ours.response_mask


async def test_a_tool_is_shared_by_loops_of_both_kinds():
    tool = TOOLS["TracedSearch"].tool
    for cls in (Repairing, CaptionLoop, Repairing):
        server = ScriptedServer([f"Now. {call_of(tool.name, 'ok')}", ANSWER])
        output, _ = await run_loop(cls, server, config_of(), tools=[tool])
        assert DONE in TOKENIZER.decode(output.response_ids)
    assert "execute" not in vars(tool)


async def test_a_sandbox_that_cannot_be_created_is_an_outage():
    server = ScriptedServer([f"Now. {call_of('Sandboxed', 'ok')}", ANSWER])
    kwargs = {"Sandboxed": {"create_kwargs": {"down": True}}}
    with pytest.raises(InfrastructureError, match=rf"tool 'Sandboxed': create\(\) failed: RuntimeError: {SECRET}"):
        await run_loop(Repairing, server, config_of(), tools=[TOOLS["Sandboxed"].tool], tools_kwargs=kwargs)


async def test_a_contracts_timeout_ends_the_call():
    """Before the server does, which drops the connection in the end."""
    with pytest.raises(InfrastructureError, match="tool 'Hanging': TimeoutError"):
        await run("Hanging", "outage")
