"""VeRL's agent loop workers. Ours remember why a trajectory was lost, tell the loop what is validation, and tell the
reward function which words are the policy's own.

VeRL logs an exception in a loop, marks the group as failed and goes on with what is left of it. The trainer asks the
workers for these failures while it waits for a step's trajectories, and decides (`verl_cleaner.training.groups`).
"""

import asyncio
import traceback
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from verl_cleaner.config import rollback_config
from verl_cleaner.formats import FORMATS
from verl_cleaner.formats.own_turns import TURNS_FIELD, of_tokens
from verl_cleaner.records.token_text import token_texts
from verl_cleaner.rollout.lost_trajectory import LossCause, LostTrajectory
from verl_cleaner.rollout.other_loops import as_marked, check_rows
from verl_cleaner.rollout.tools.contract import check_contracts
from verl_cleaner.saar.outcome import InfrastructureError

_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


_STOCK_LOOP = "verl.experimental.agent_loop.tool_agent_loop.ToolAgentLoop"
_OUR_LOOP = "verl_cleaner.rollout.tool_agent_loop.ToolAgentLoop"


def use_our_loop(registry: MutableMapping[str, Any]) -> None:
    """Run ours wherever VeRL's table of this process, name -> Hydra node, names VeRL's tool agent loop."""
    for name, node in registry.items():
        if node["_target_"] == _STOCK_LOOP:
            registry[name] = {**node, "_target_": _OUR_LOOP}


class RewardError(Exception):
    """The reward function raised its `__cause__`."""


class AgentLoopWorker(_Worker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        use_our_loop(_agent_loop_registry)
        self._lost: list[LostTrajectory] = []
        self._rollback = rollback_config(self.rollout_config.multi_turn)
        if self._rollback.enable_tool_rollback:
            check_contracts(self.tools, self._rollback.contracts)

    async def generate_sequences(self, batch: TensorDict) -> None:
        """Raises RolloutError for rows whose agent loop cannot do what the configuration asks for."""
        validate = bool(batch["validate"]) if "validate" in batch else False
        default = self.config.actor_rollout_ref.rollout.agent.default_agent_loop
        names = _column(batch, "agent_name", default)
        check_rows(names, _column(batch, "index", None), self._rollback, validate=validate)
        await super().generate_sequences(batch)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], *, trace: bool = True, **kwargs: Any
    ) -> Any:
        """Includes the reward and the hand-over to TransferQueue."""
        try:
            return await super()._run_agent_loop(
                sampling_params, trajectory, trace=trace, is_validation=bool(trajectory["validate"]), **kwargs
            )
        except Exception as error:
            lost = describe(error, uid=kwargs["uid"])
            self._lost.append(replace(lost, validate=bool(trajectory["validate"])))
            raise

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        kwargs.pop("is_validation")
        outputs = output if isinstance(output, list) else [output]
        outputs = [as_marked(output, self._rollback, validate=validate) for output in outputs]
        await super()._agent_loop_postprocess(outputs, validate, **kwargs)

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        """The reward function gets the policy's own words of the last output, which VeRL scores, in `extra_info`."""
        final = outputs[-1]
        if final.reward_score is None and self.reward_loop_worker_handles is not None:
            turns = await asyncio.to_thread(self._own_turns, final.response_ids, final.response_mask)
            kwargs = {**kwargs, "extra_info": {**(kwargs.get("extra_info") or {}), TURNS_FIELD: turns}}
        try:
            await super()._compute_score(outputs, kwargs=kwargs)
        except (InfrastructureError, ray.exceptions.RayActorError):
            raise
        except Exception as error:
            raise RewardError(str(error)) from error

    def _own_turns(self, ids: list[int], mask: list[int]) -> list[str]:
        tool_format = FORMATS.get(self.rollout_config.multi_turn.format)
        return of_tokens(token_texts(self.tokenizer)(ids), mask, tool_format, end=self.tokenizer.eos_token)

    async def take_lost(self) -> list[LostTrajectory]:
        """What was lost since the last call."""
        lost, self._lost = self._lost, []
        return lost


def _column(batch: TensorDict, name: str, default: Any) -> Sequence[Any]:
    """A value a row, of a column that VeRL stores row by row or once."""
    if name not in batch:
        return [default] * len(batch)
    values = (batch[i].get(name) for i in range(len(batch)))
    return [value.item() if isinstance(value, torch.Tensor) else getattr(value, "data", value) for value in values]


def describe(error: Exception, *, uid: str) -> LostTrajectory:
    """Also of an error that a reward worker raised: Ray hands it on as an instance of its own class."""
    if isinstance(error, InfrastructureError):
        return LostTrajectory(uid, LossCause.OUTAGE, str(getattr(error, "cause", None) or error), "InfrastructureError")
    if isinstance(error, ray.exceptions.RayActorError):
        return LostTrajectory(uid, LossCause.OUTAGE, f"a reward worker died: {error}", type(error).__name__)
    text = "".join(traceback.format_exception(error))
    if isinstance(error, RewardError):
        raised = error.__cause__
        return LostTrajectory(uid, LossCause.REWARD, text, type(getattr(raised, "cause", None) or raised).__name__)
    return LostTrajectory(uid, LossCause.BUG, text, type(error).__name__)


class AgentLoopManager(AgentLoopManagerTQ):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(AgentLoopWorker)

    def take_lost(self) -> list[LostTrajectory]:
        """Of all workers. Raises Ray's error if a worker died, for whose trajectories VeRL would wait for ever."""
        return [lost for part in ray.get([w.take_lost.remote() for w in self.agent_loop_workers]) for lost in part]
