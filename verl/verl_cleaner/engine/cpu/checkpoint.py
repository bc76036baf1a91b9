"""Weights from the trainer to rollout servers of their own, through Ray's object store; for small models.

A checkpoint engine in VeRL's terms, for `cleaner_separate_async` on CPU: `rollout.checkpoint_engine.backend=cpu`. The
trainer's rank 0 has a mailbox; for each transfer VeRL hands it and the number of the round to all workers.
"""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import ray
import torch
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

from verl_cleaner.engine.cpu import ROLLOUT_NAME
from verl_cleaner.engine.cpu.mailbox import Mailbox


@CheckpointEngineRegistry.register(ROLLOUT_NAME)
class RayCheckpointEngine(CheckpointEngine):
    """is_master: of rank 0 of the trainer, which sends; the other ranks take part in gathering the shards."""

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self.is_master = is_master
        self._mailbox: Any = None
        self._round = 0

    def prepare(self) -> tuple[Any, int] | None:  # type: ignore[override]
        """The mailbox and the round of this transfer, from the master."""
        if not self.is_master:
            return None
        self._mailbox = self._mailbox or ray.remote(Mailbox).options(num_cpus=0).remote()
        self._round += 1
        return self._mailbox, self._round

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        ((mailbox, number),) = (given for given in metadata if given is not None)

        def same(workers: int) -> dict[str, list[Any]]:
            return {"mailbox": [mailbox] * workers, "number": [number] * workers}

        return same(actor_wg_world_size), same(rollout_world_size)

    def init_process_group(self, mailbox: Any, number: int) -> None:
        self._mailbox, self._round = mailbox, number

    def finalize(self) -> None: ...

    async def send_weights(
        self, weights: Generator[tuple[str, torch.Tensor], None, None], global_steps: int | None = None
    ) -> None:
        state = {name: tensor.detach().float().cpu() for name, tensor in weights}
        if self.is_master:
            # In a list, so that the mailbox gets the reference and not the weights.
            await self._mailbox.put.remote(self._round, [ray.put(state)])

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        (reference,) = await self._mailbox.get.remote(self._round)
        for name, tensor in (await reference).items():
            yield name, tensor
