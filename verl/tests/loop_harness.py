"""Run one trajectory of an agent loop against a scripted LLM server and a tool that does what its code says."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from composing import CONF, changed, composed
from omegaconf import OmegaConf, open_dict
from tiny import tiny_tokenizer
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.workers.rollout.replica import TokenOutput

from verl_cleaner.rollout.tools import tool_contract
from verl_cleaner.saar.outcome import OK, InfrastructureError, ToolOutcome

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id
PROMPT = [{"role": "user", "content": "solve it"}]


class Bug(RuntimeError):
    pass


@tool_contract(on_exception={"Bug": "stop"})
class Tool(BaseTool):
    """`ok TEXT` answers TEXT, `Kind TEXT` fails with that kind, `outage` and `bug` end the trajectory.

    Like a tool that knows nothing of CLEANER: `say TEXT` answers without a status, `raise TEXT` raises TEXT,
    `down TEXT` raises an outage.
    """

    async def execute(self, instance_id: str, parameters: dict[str, Any], **_: Any):
        kind, _, text = str(parameters["code"]).partition(" ")
        if kind == "outage":
            return ToolResponse(text=""), 0.0, {"outcome": ToolOutcome.outage("the judge is gone")}
        if kind == "bug":
            raise Bug("our bug")
        if kind == "say":
            return ToolResponse(text=text), 0.0, {}
        if kind == "raise":
            raise RuntimeError(text)
        if kind == "down":
            raise InfrastructureError(text)
        if kind == "ok":
            return ToolResponse(text=text), 0.0, {"outcome": OK}
        return ToolResponse(text=f"{kind}: {text}"), 0.0, {"outcome": ToolOutcome.fault(kind)}


def tool_list() -> list[BaseTool]:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "code_interpreter.yaml").tools[0].tool_schema)
    return [Tool({}, OpenAIFunctionToolSchema.model_validate(config))]


def call(code: str, name: str = "code_interpreter") -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'code': code}})}\n</tool_call>"


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@dataclass
class ScriptedServer:
    """Answers request after request with the next text, or with these ids; every token gets a log-prob of its own."""

    script: Iterable[str | list[int]]
    logprobs: bool = True
    tokenizer: Any = TOKENIZER
    contexts: list[list[int]] = field(default_factory=list)
    params: list[dict[str, Any]] = field(default_factory=list)
    sampled: dict[float, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._script = iter(self.script)

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any):
        self.contexts.append(list(prompt_ids))
        self.params.append(dict(sampling_params))
        text = next(self._script, "I give up.")
        ids = text if isinstance(text, list) else self._encode(text)
        ids = ids[: sampling_params.get("max_tokens", 1 << 30)]
        logprobs = []
        for token in ids:
            logprob = -float(len(self.sampled) + 1)
            self.sampled[logprob] = token
            logprobs.append(logprob)
        return TokenOutput(
            token_ids=ids, log_probs=logprobs if self.logprobs else None, extra_fields={"global_steps": 0}
        )

    def _encode(self, text: str) -> list[int]:
        """With the end token, unless the text ends with one of its own."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return ids if text.endswith("|>") else [*ids, self.tokenizer.eos_token_id]

    def context_texts(self) -> list[str]:
        return [self.tokenizer.decode(ids) for ids in self.contexts]


@lru_cache(None)
def make_config(*overrides: str, response_length: int = 1000):
    limit = "actor_rollout_ref.rollout.multi_turn.max_tool_response_length=120"
    basic = composed("cleaner_cpu", "data.max_prompt_length=200", limit)
    return changed(basic, [f"data.max_response_length={response_length}", *overrides])


def configured(section: str, **values: Any):
    """A configuration with rollback, the same object each time, with `values` set anew; much faster than composing."""
    config = make_config(*rollback(), "trainer.experiment_name=configured")
    with open_dict(config):
        OmegaConf.update(config, section, values)
    return config


def rollback(**values: Any) -> list[str]:
    prefix = "+actor_rollout_ref.rollout.multi_turn."
    return [f"{prefix}{key}={value}" for key, value in ({"enable_tool_rollback": True} | values).items()]


def make_loop(cls: type, server: Any, config: Any, *, model_type: str = "qwen3", tools: list[Any] | None = None):
    from verl.utils.dataset.rl_dataset import RLHFDataset

    return cls(
        trainer_config=DictConfigWrap(config),
        server_manager=server,
        tokenizer=server.tokenizer,
        processor=None,
        dataset_cls=RLHFDataset,
        data_config=DictConfigWrap(config.data),
        hf_model_type=model_type,
        tools=ToolListWrap(tool_list() if tools is None else tools),
    )


async def run_loop(
    cls: type,
    server: Any,
    config: Any,
    *,
    model_type: str = "qwen3",
    tools: list[Any] | None = None,
    **kwargs: Any,
):
    """Returns (output, the trajectory's messages)."""
    loop = make_loop(cls, server, config, model_type=model_type, tools=tools)
    seen: list[Any] = []

    for name in ("_handle_generating_state", "_handle_processing_tools_state"):
        handler = getattr(loop, name)

        async def checked(agent_data, *args, _handler=handler, **kw):
            state = await _handler(agent_data, *args, **kw)
            seen.append(agent_data)
            if server.logprobs:
                assert len(agent_data.response_mask) == len(agent_data.response_logprobs)
            assert len(agent_data.prompt_ids) >= len(agent_data.response_mask)
            return state

        setattr(loop, name, checked)
    sample = {"global_steps": 1, "index": 3, "session_id": 0} | kwargs
    output = await loop.run({"temperature": 1.0}, raw_prompt=PROMPT, **sample)
    return output, seen[-1].messages
