"""CLEANER over each of VeRL's trainers, by the name that `trainer.v1.trainer_mode` gives it (`verl_cleaner.TRAINERS`).

    cleaner                   samples, then trains, with one set of weights
    cleaner_colocate_async    the next batches are begun early; what is not finished when training begins is aborted and
                              goes on with the new weights
    cleaner_separate_async    rollout servers of their own sample all the time

VeRL aborts and resumes below the agent loop: a turn that was interrupted, or a retry, comes back as one generation. It
may then span several versions of the weights, which `training/off_policy/trajectory_spans` counts.
"""

import asyncio
from typing import Any, ClassVar

from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from verl_cleaner import TRAINERS
from verl_cleaner.training.actor import ExtendedDetachWorker
from verl_cleaner.training.trainer import CleanerTrainerMixin

_PAUSE = 1.0
"""Seconds, as VeRL waits for the servers to come back."""


class ScoringClient(FullyAsyncLLMServerClient):
    """VeRL's client resumes what was aborted and joins the parts into a new reply, without fields such as the
    `prompt_logprobs` that `rollout.rescore` reads. A request for scores has no parts: it is made again."""

    async def generate(self, request_id: str, *, sampling_params: dict[str, Any], **kwargs: Any) -> TokenOutput:
        if "prompt_logprobs" not in sampling_params:
            return await super().generate(request_id, sampling_params=sampling_params, **kwargs)
        while True:
            output = await LLMServerClient.generate(self, request_id, sampling_params=sampling_params, **kwargs)
            if output.stop_reason not in ("aborted", "abort"):
                return output
            await asyncio.sleep(_PAUSE)


class _Mode(CleanerTrainerMixin):
    verl_mode: ClassVar[str]

    def __init__(self, config: DictConfig) -> None:
        # VeRL reads the mode by its own names in several places.
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.verl_mode
        super().__init__(config)


class CleanerTrainer(_Mode, PPOTrainerSync):
    verl_mode = "sync"


class CleanerColocateAsync(_Mode, PPOTrainerColocateAsync):
    verl_mode = "colocate_async"

    def get_llm_client(self) -> Any:
        return self.llm_server_manager.get_client(client_cls=ScoringClient)


class CleanerSeparateAsync(_Mode, PPOTrainerSeparateAsync):
    verl_mode = "separate_async"
    actor_worker = ExtendedDetachWorker

    def get_llm_client(self) -> Any:
        return self.standalone_server_manager.get_client(client_cls=ScoringClient)


_BY_MODE: dict[str, type[_Mode]] = {
    trainer.verl_mode: trainer for trainer in (CleanerTrainer, CleanerColocateAsync, CleanerSeparateAsync)
}


def trainer_class(name: str) -> type[_Mode]:
    """name: one of `verl_cleaner.TRAINERS`."""
    return _BY_MODE[TRAINERS[name]]
