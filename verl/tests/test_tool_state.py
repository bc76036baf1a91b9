"""What tools keep beside the tokens goes back with them; what may not run twice does not."""

import json
import threading

import pytest
from foreign_tools import schema
from loop_harness import TOKENIZER, ScriptedServer, make_config, make_loop, rollback, run_loop
from omegaconf import OmegaConf, open_dict
from verl.experimental.agent_loop.agent_loop import AgentLoopBase
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop as StockToolAgentLoop
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import ToolResponse
from verl.workers.rollout.replica import TokenOutput

from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, RollbackMixin, ToolAgentLoop
from verl_cleaner.rollout.tools import InfrastructureError, ToolContract, tool_contract
from verl_cleaner.rollout.tools.contract import contract_of

ON = make_config(*rollback())


def call(name, query):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'query': query}})}\n</tool_call>"


class Recorder(BaseTool):
    """Keeps what it is asked; fails where it is asked for something bad."""

    def __init__(self, name="recorder"):
        super().__init__({}, schema(name))
        self.ran = []

    async def execute(self, instance_id, parameters, agent_data=None, **kwargs):
        self.ran.append(parameters["query"])
        self.keep(parameters["query"], agent_data)
        if "bad" in parameters["query"]:
            raise ValueError("bad")
        return ToolResponse(text=f"did {parameters['query']}"), 1.0, {}

    def keep(self, query, agent_data):
        pass


class InExtraFields(Recorder):
    def keep(self, query, agent_data):
        agent_data.extra_fields.setdefault("cells", []).append(query)


@tool_contract(stateful=True)
class Sessions(Recorder):
    def __init__(self, name="recorder"):
        super().__init__(name)
        self.cells, self.told = [], []

    def keep(self, query, agent_data):
        self.cells.append(query)

    async def snapshot(self, agent_data):
        return len(self.cells)

    def restore(self, agent_data, state):
        del self.cells[state:]

    async def taken_back(self, agent_data, arguments):
        self.told.append(arguments["query"])


async def repaired(*tools, script, **values):
    server = ScriptedServer([*script, "Done."])
    config = make_config(*rollback(**values))
    output, _ = await run_loop(ToolAgentLoop, server, config, tools=list(tools))
    return output, output.extra_fields[RECORD_FIELD]


BAD_THEN_GOOD = [f"A. {call('recorder', 'bad')}", f"B. {call('recorder', 'bad too')}", f"C. {call('recorder', 'good')}"]


async def test_extra_fields_go_back():
    output, record = await repaired(InExtraFields(), script=BAD_THEN_GOOD)
    assert record["recovered"] == 1
    assert output.extra_fields["cells"] == ["good"]
    assert output.extra_fields["tool_rewards"] == [1.0]


async def test_they_go_back_to_the_turns_before():
    script = [f"A. {call('recorder', 'one')}", *BAD_THEN_GOOD]
    output, _ = await repaired(InExtraFields(), script=script)
    assert output.extra_fields["cells"] == ["one", "good"]


@pytest.mark.parametrize(
    ("script", "cells"),
    [
        ([f"A. {call('recorder', 'bad')}", "I cannot."], ["bad"]),
        ([f"A. {call('recorder', f'bad {i}')}" for i in range(4)], ["bad 3"]),
    ],
    ids=["no call", "given up"],
)
async def test_what_stays_in_the_trajectory_stays_in_the_state(script, cells):
    output, _ = await repaired(InExtraFields(), script=script)
    assert output.extra_fields["cells"] == cells


@pytest.mark.parametrize("mode", ["keep", "void"])
async def test_where_failed_turns_stay_so_does_the_state(mode):
    output, _ = await repaired(InExtraFields(), script=BAD_THEN_GOOD, rollback_mode=mode)
    assert output.extra_fields["cells"] == ["bad", "bad too", "good"]


async def test_what_the_engine_says_of_the_retry_stays():
    """A retry may come from newer weights, and has costs of its own; going back must not hide it."""

    class Aging(ScriptedServer):
        async def generate(self, *args, **kwargs):
            reply = await super().generate(*args, **kwargs)
            version = len(self.contexts)
            said = {"min_global_steps": version, "max_global_steps": version, "spec_num_draft_tokens": 10}
            return TokenOutput(token_ids=reply.token_ids, log_probs=reply.log_probs, extra_fields=said)

    server = Aging([f"A. {call('recorder', 'bad')}", f"A. {call('recorder', 'good')}"])
    output, _ = await run_loop(ToolAgentLoop, server, ON, tools=[InExtraFields()])
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (1, 3)
    assert output.extra_fields["spec_num_draft_tokens"] == 3 * 10
    assert output.extra_fields["cells"] == ["good"]


async def test_sessions_go_back_and_are_told():
    tool = Sessions()
    await repaired(tool, script=[f"A. {call('recorder', 'one')}", *BAD_THEN_GOOD])
    assert tool.cells == ["one", "good"]
    assert tool.told == ["bad", "bad too"]
    assert tool.ran == ["one", "bad", "bad too", "good"]


async def test_a_function_has_hooks_too():
    cells = []

    @tool_contract(
        stateful=True,
        snapshot=lambda agent_data: list(cells),
        restore=lambda agent_data, state: cells.__setitem__(slice(None), state),
    )
    def note(query):
        cells.append(query)
        if "bad" in query:
            raise ValueError(query)
        return "noted"

    tool = FunctionTool(name="recorder", fn=note, tool_schema=schema("recorder"))
    await repaired(tool, script=BAD_THEN_GOOD)
    assert cells == ["good"]


async def test_a_hook_that_fails_is_an_outage():
    tool = Sessions()
    tool.restore = lambda *_: 1 / 0
    with pytest.raises(InfrastructureError, match=r"tool 'recorder': .*failed: ZeroDivisionError"):
        await repaired(tool, script=BAD_THEN_GOOD)


async def test_a_release_that_fails_is_an_outage():
    class Stuck(Recorder):
        async def release(self, instance_id, **kwargs):
            raise RuntimeError("the container is still busy")

    with pytest.raises(InfrastructureError, match=r"tool 'recorder': release\(\) failed: RuntimeError: the container"):
        await repaired(Stuck(), script=[f"A. {call('recorder', 'good')}"])


TWO = f"{call('recorder', 'good')}\n{call('recorder', 'bad')}"
TWO_GOOD = f"{call('recorder', 'good')}\n{call('recorder', 'better')}"


async def test_a_sibling_that_succeeded_keeps_its_result():
    tool = Recorder()
    output, record = await repaired(tool, script=[f"A. {TWO}", f"B. {TWO_GOOD}"])
    assert tool.ran == ["good", "bad", "better"]
    assert TOKENIZER.decode(output.response_ids).count("did good") == 1
    assert [a["kinds"] for a in record["attempts"]] == [(None, "tool_error"), (None, None)]
    assert output.extra_fields["tool_rewards"] == [1.0, 1.0]


async def test_each_result_stands_for_one_call():
    tool = Recorder()
    await repaired(tool, script=[f"A. {TWO}", f"B. {call('recorder', 'good')}\n{call('recorder', 'good')}"])
    assert tool.ran == ["good", "bad", "good"]


@pytest.mark.parametrize("make", [InExtraFields, Sessions], ids=["extra fields", "sessions"])
async def test_a_sibling_with_state_runs_again(make):
    tool = make()
    output, _ = await repaired(tool, script=[f"A. {TWO}", f"B. {TWO_GOOD}"])
    assert tool.ran == ["good", "bad", "good", "better"]
    assert (output.extra_fields.get("cells") or tool.cells) == ["good", "better"]


async def test_other_arguments_run():
    tool = Recorder()
    await repaired(tool, script=[f"A. {TWO}", f"B. {call('recorder', 'goody')}\n{call('recorder', 'better')}"])
    assert tool.ran == ["good", "bad", "goody", "better"]


def configured(**contracts):
    config = ON.copy()
    with open_dict(config):
        OmegaConf.update(config, "actor_rollout_ref.rollout.multi_turn.tool_contracts", contracts, force_add=True)
    return config


@pytest.mark.parametrize(
    "contract", [{"idempotent": False}, {"stateful": True, "repairable": False}, {"repairable": False}]
)
async def test_a_call_that_must_not_run_again_is_not_taken_back(contract):
    server = ScriptedServer([f"A. {call('recorder', 'bad')}", "Done."])
    tool = Recorder()
    output, _ = await run_loop(ToolAgentLoop, server, configured(recorder=contract), tools=[tool])
    assert (tool.ran, output.extra_fields[RECORD_FIELD]["retries"]) == (["bad"], [])
    assert "Error executing tool" in TOKENIZER.decode(output.response_ids)


async def test_neither_is_the_turn_it_succeeded_in():
    mail, other = Recorder("mail"), Recorder()
    script = [f"A. {call('mail', 'good')}\n{call('recorder', 'bad')}", "Done."]
    output, _ = await run_loop(
        ToolAgentLoop, ScriptedServer(script), configured(mail={"idempotent": False}), tools=[mail, other]
    )
    assert output.extra_fields[RECORD_FIELD]["retries"] == []


async def test_a_tool_that_is_not_to_be_repaired_beside_one_that_is():
    mail, other = Recorder("mail"), Recorder()
    script = [
        f"A. {call('mail', 'bad')}\n{call('recorder', 'bad')}",
        f"B. {call('mail', 'good')}\n{call('recorder', 'good')}",
    ]
    output, _ = await run_loop(
        ToolAgentLoop, ScriptedServer([*script, "Done."]), configured(mail={"repairable": False}), tools=[mail, other]
    )
    assert output.extra_fields[RECORD_FIELD]["recovered"] == 1


def test_state_without_a_way_back_is_refused():
    tool = Recorder()
    message = r"tool 'recorder' holds state .* no snapshot\(\) and restore\(\).*repairable=False"
    with pytest.raises(ValueError, match=message):
        make_loop(ToolAgentLoop, ScriptedServer([]), configured(recorder={"stateful": True}), tools=[tool])


async def test_session_data_that_cannot_be_copied_is_refused_unless_the_tool_has_hooks():
    class Locked(Recorder):
        def keep(self, query, agent_data):
            agent_data.extra_fields["lock"] = threading.Lock()

    class LockedSessions(Sessions):
        keep = Locked.keep

    script = [f"A. {call('recorder', 'good')}", *BAD_THEN_GOOD]
    with pytest.raises(ValueError, match=r"extra_fields\['lock'\] cannot be copied .*snapshot\(agent_data\)"):
        await repaired(Locked(), script=script)
    _, record = await repaired(LockedSessions(), script=script)
    assert record["recovered"] == 1
    _, record = await repaired(Locked(), script=script[:2], rollback_probability=0)
    assert record["attempts"][1]["kinds"] == ("tool_error",)


# ---- contracts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"idempotent": "no"}, r"tool_contracts.recorder: idempotent must be True or False, got 'no'"),
        ({"retries": 3}, r"tool_contracts.recorder knows no 'retries'; expected idempotent, stateful"),
        ({"timeout": -1}, r"timeout must be a number of seconds > 0 or null, got -1"),
        ({"on_text": {"(": "outage"}}, r"on_text: '\(' is no regular expression"),
        ({"on_status": {"abc": "outage"}}, r"on_status must have keys such as 404 or 4xx, got 'abc'"),
        ({"on_exception": {"ValueError": ""}}, r"on_exception must map to ok, outage, stop or the kind"),
        ({"on_exception": ["ValueError"]}, r"on_exception must map to"),
    ],
)
def test_contracts_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        contract_of(Recorder(), {"recorder": values})


def test_the_configuration_goes_over_the_tool_and_the_name_over_every_tool():
    @tool_contract(timeout=3.0, on_exception={"ValueError": "wrong", "KeyError": "missing"}, idempotent=False)
    class Declared(Recorder):
        pass

    configured = {"*": {"timeout": 5.0, "on_exception": {"ValueError": "outage"}}, "recorder": {"timeout": 7.0}}
    contract = contract_of(Declared(), configured)
    assert (contract.timeout, contract.idempotent) == (7.0, False)
    assert contract.on_exception == {"ValueError": "outage", "KeyError": "missing"}
    assert contract_of(Recorder(), {}) == ToolContract()


# ---- the mixin -------------------------------------------------------------------------------------------------------


def test_the_mixin_has_its_place():
    StockLoop = type("StockLoop", (StockToolAgentLoop,), {})
    with pytest.raises(TypeError, match=r"class Wrong\(StockLoop, RollbackMixin\): .*class MyLoop\(RollbackMixin"):
        type("Wrong", (StockLoop, RollbackMixin), {})
    with pytest.raises(TypeError, match="works over a subclass of VeRL's ToolAgentLoop"):
        type("Foreign", (RollbackMixin, AgentLoopBase), {})
    type("Right", (RollbackMixin, StockToolAgentLoop), {})
    type("Further", (ToolAgentLoop,), {})


async def test_a_loop_that_answers_some_calls_itself():
    """Its answers are successes, unless a pattern for every tool says otherwise."""

    class Handoff(StockToolAgentLoop):
        async def _call_tool(self, tool_call, tools_kwargs, agent_data):
            if tool_call.name == "handoff":
                return ToolResponse(text=f"handed to {json.loads(tool_call.arguments)['query']}"), 0.0, {}
            return await super()._call_tool(tool_call, tools_kwargs, agent_data)

    class Repairing(RollbackMixin, Handoff):
        pass

    script = [f"A. {call('handoff', 'nobody')}", f"B. {call('handoff', 'Ann')}", "Done."]
    for patterns, kinds in (({}, [(None,), (None,)]), ({"nobody": "no_such_agent"}, [("no_such_agent",), (None,)])):
        config = configured(**{"*": {"on_text": patterns}})
        output, _ = await run_loop(Repairing, ScriptedServer(script), config, tools=[Recorder()])
        assert [a["kinds"] for a in output.extra_fields[RECORD_FIELD]["attempts"]] == kinds


async def test_a_loop_that_selects_no_tools_for_a_trajectory_may_call_all_of_them():
    """As in VeRL, and their contracts hold."""

    class Unselected(RollbackMixin, StockToolAgentLoop):
        async def _handle_pending_state(self, agent_data, sampling_params):
            del agent_data._active_tools
            return await super()._handle_pending_state(agent_data, sampling_params)

    tool, script = Recorder(), [f"A. {call('recorder', 'bad')}", "Done."]
    output, _ = await run_loop(
        Unselected, ScriptedServer(script), configured(recorder={"idempotent": False}), tools=[tool]
    )
    assert (tool.ran, output.extra_fields[RECORD_FIELD]["retries"]) == (["bad"], [])
