"""Weights from the trainer to rollout servers of their own, through Ray's object store; for small models.

A checkpoint engine in VeRL's terms, for `cleaner_separate_async` on CPU: `rollout.checkpoint_engine.backend=cpu`. Each
transfer has a mailbox, an actor that holds one reference and whose handle VeRL gives to all workers.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import ray
import torch
from verl.checkpoint_engine.base import CheckpointEngine


class Mailbox:
    """Holds one thing for those who wait for it."""

    def __init__(self) -> None:
        self._content: Any = None
        self._full = asyncio.Event()

    async def put(self, content: Any) -> None:
        self._content = content
        self._full.set()

    async def get(self) -> Any:
        await self._full.wait()
        return self._content


class RayCheckpointEngine(CheckpointEngine):
    """is_master: of rank 0 of the trainer, which sends; the other ranks take part in gathering the shards."""

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self.is_master = is_master
        self._mailbox: Any = None

    def prepare(self) -> Any:  # type: ignore[override]
        return ray.remote(Mailbox).options(num_cpus=0).remote() if self.is_master else None

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        (mailbox,) = (given for given in metadata if given is not None)
        return {"mailbox": [mailbox] * actor_wg_world_size}, {"mailbox": [mailbox] * rollout_world_size}

    def init_process_group(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def finalize(self) -> None:
        self._mailbox = None

    async def send_weights(
        self, weights: Generator[tuple[str, torch.Tensor], None, None], global_steps: int | None = None
    ) -> None:
        state = {name: tensor.detach().float().cpu() for name, tensor in weights}
        if self.is_master:
            # In a list, so that the mailbox gets the reference and not the weights.
            await self._mailbox.put.remote([ray.put(state)])

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        (reference,) = await self._mailbox.get.remote()
        for name, tensor in (await reference).items():
            yield name, tensor
