"""VeRL's agent loop workers. Ours remember why a trajectory was lost, tell the loop what is validation, and tell the
reward function which words are the policy's own.

VeRL logs an exception in a loop, marks the group as failed and goes on with what is left of it. The trainer asks the
workers for these failures while it waits for a step's trajectories, and decides (`verl_cleaner.training.groups`).
"""

import asyncio
import traceback
from collections.abc import MutableMapping
from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from verl_cleaner.formats import FORMATS
from verl_cleaner.formats.own_turns import TURNS_FIELD, of_tokens
from verl_cleaner.records.token_text import token_texts
from verl_cleaner.rollout.lost_trajectory import LostTrajectory
from verl_cleaner.saar.outcome import InfrastructureError

_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


_STOCK_LOOP = "verl.experimental.agent_loop.tool_agent_loop.ToolAgentLoop"
_OUR_LOOP = "verl_cleaner.rollout.tool_agent_loop.ToolAgentLoop"


def use_our_loop(registry: MutableMapping[str, Any]) -> None:
    """Run ours wherever VeRL's table of this process, name -> Hydra node, names VeRL's tool agent loop."""
    for name, node in registry.items():
        if node["_target_"] == _STOCK_LOOP:
            registry[name] = {**node, "_target_": _OUR_LOOP}


class AgentLoopWorker(_Worker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        use_our_loop(_agent_loop_registry)
        self._lost: list[LostTrajectory] = []

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], *, trace: bool = True, **kwargs: Any
    ) -> Any:
        """Includes the reward and the hand-over to TransferQueue."""
        try:
            return await super()._run_agent_loop(
                sampling_params, trajectory, trace=trace, is_validation=bool(trajectory["validate"]), **kwargs
            )
        except Exception as error:
            self._lost.append(describe(error, uid=kwargs["uid"]))
            raise

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        kwargs.pop("is_validation")
        await super()._agent_loop_postprocess(output, validate, **kwargs)

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        """The reward function gets the policy's own words of the last output, which VeRL scores, in `extra_info`."""
        final = outputs[-1]
        if final.reward_score is None and self.reward_loop_worker_handles is not None:
            turns = await asyncio.to_thread(self._own_turns, final.response_ids, final.response_mask)
            kwargs = {**kwargs, "extra_info": {**(kwargs.get("extra_info") or {}), TURNS_FIELD: turns}}
        await super()._compute_score(outputs, kwargs=kwargs)

    def _own_turns(self, ids: list[int], mask: list[int]) -> list[str]:
        tool_format = FORMATS.get(self.rollout_config.multi_turn.format)
        return of_tokens(token_texts(self.tokenizer)(ids), mask, tool_format, end=self.tokenizer.eos_token)

    async def take_lost(self) -> list[LostTrajectory]:
        """What was lost since the last call."""
        lost, self._lost = self._lost, []
        return lost


def describe(error: Exception, *, uid: str) -> LostTrajectory:
    """Also of an error that a reward worker raised: Ray hands it on as an instance of its own class."""
    if isinstance(error, InfrastructureError):
        cause = getattr(error, "cause", None) or error
        return LostTrajectory(uid, True, str(cause))
    return LostTrajectory(uid, False, "".join(traceback.format_exception(error)))


class AgentLoopManager(AgentLoopManagerTQ):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(AgentLoopWorker)

    def take_lost(self) -> list[LostTrajectory]:
        """Of all workers. Raises Ray's error if a worker died, for whose trajectories VeRL would wait for ever."""
        return [lost for part in ray.get([w.take_lost.remote() for w in self.agent_loop_workers]) for lost in part]
