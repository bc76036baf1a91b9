"""Asynchronous trainers abort generations, also retries, and go on with new weights: the loop must not see it.

VeRL's client for it is the real one; what plays is the server, which stops after every few tokens.
"""

import asyncio
from types import SimpleNamespace

import pytest
from loop_harness import ScriptedServer, make_config, rollback, run_loop
from rollout_cases import ANSWER, CASES, FAIL, FIXED, ScoringServer, plain, run_case
from verl.workers.rollout import llm_server
from verl.workers.rollout.replica import TokenOutput

from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop
from verl_cleaner.training import modes
from verl_cleaner.training.modes import ScoringClient


class Interrupted:
    """A server that is stopped after every `tokens` tokens, and before each request for scores; each time the weights'
    version goes up."""

    def __init__(self, server: ScriptedServer, tokens: int) -> None:
        self.server, self.tokens, self.version = server, tokens, 0
        self.open: dict[tuple[int, ...], TokenOutput] = {}
        self.refused = False

    async def generate(self, *, prompt_ids, sampling_params, **rest):
        if "prompt_logprobs" in sampling_params:
            self.refused = not self.refused
            if self.refused:
                return TokenOutput(token_ids=[], stop_reason="aborted", extra_fields={"global_steps": self.version})
            output = await self.server.generate(prompt_ids=prompt_ids, sampling_params=sampling_params, **rest)
            output.stop_reason = "completed"
            return output
        whole = self.open.pop(tuple(prompt_ids), None) or await self.server.generate(
            prompt_ids=prompt_ids, sampling_params=sampling_params, **rest
        )
        now, later = whole.token_ids[: self.tokens], whole.token_ids[self.tokens :]
        logprobs = whole.log_probs
        if later:
            rest_logprobs = logprobs and logprobs[self.tokens :]
            self.open[(*prompt_ids, *now)] = TokenOutput(token_ids=later, log_probs=rest_logprobs)
        version = self.version
        self.version += bool(later)
        return TokenOutput(
            token_ids=now,
            log_probs=logprobs and logprobs[: self.tokens],
            stop_reason="aborted" if later else "completed",
            extra_fields={"global_steps": version},
        )


class Client(ScoringClient):
    """Over one server, without Ray."""

    def __init__(self, server: Interrupted, config) -> None:
        super().__init__(config)
        self.server = server
        self.tokenizer, self.logprobs = server.server.tokenizer, server.server.logprobs

    async def _acquire_server(self, request_id, **_):
        return "address", SimpleNamespace(generate=SimpleNamespace(remote=self.server.generate))

    def _release_server(self, server_id, request_id=None):
        pass


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    async def sleep(_seconds):
        pass

    for module in (llm_server, modes):
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep, gather=asyncio.gather))


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("name", CASES)
async def test_an_interrupted_rollout_is_the_one_that_was_not(name, tokens):
    case = CASES[name]
    inner = ScoringServer(case.script, logprobs=case.logprobs)
    client = Client(Interrupted(inner, tokens), case.config())
    got = plain(inner, *await run_loop(ToolAgentLoop, client, case.config(), **case.run))
    expected = await run_case(case)
    for found in (got, expected):
        # VeRL's client says how long a turn may be, and what the versions of the weights were.
        del found["requests"], found["extra_fields"]
    assert got == expected


async def test_a_retry_that_is_interrupted_counts_the_versions_of_its_weights():
    config = make_config(*rollback())
    server = Interrupted(ScriptedServer([f"A. {FAIL}", f"A. {FIXED}", ANSWER]), tokens=1000)
    client = Client(server, config)
    output, _ = await run_loop(ToolAgentLoop, client, config)
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (0, 0)

    retry = len(server.server.contexts[1])
    server = Interrupted(ScriptedServer([f"A. {FAIL}", f"A. {FIXED}", ANSWER]), tokens=1000)
    client = Client(server, config)

    async def interrupt_the_retry(**request):
        server.tokens = 5 if len(request["prompt_ids"]) == retry else 1000
        return await Interrupted.generate(server, **request)

    server.generate = interrupt_the_retry
    output, _ = await run_loop(ToolAgentLoop, client, config)
    assert output.extra_fields[RECORD_FIELD]["retries"][0]["result"] == "overwritten"
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (0, 1)


async def test_scores_of_verls_client_are_lost():
    """Why `ScoringClient` is there."""
    config = make_config()
    server = Interrupted(ScoringServer([]), tokens=5)
    server.refused = True
    client = Client(server, config)
    output = await super(ScoringClient, client).generate(
        "r", prompt_ids=[1, 2, 3], sampling_params={"max_tokens": 1, "prompt_logprobs": 0}
    )
    assert "prompt_logprobs" not in output.extra_fields
