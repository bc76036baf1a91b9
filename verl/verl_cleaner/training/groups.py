"""Complete groups only: what becomes of a step that lost trajectories.

VeRL's replay buffer hands out whatever is left of a group in which a trajectory ended in an exception. Here the whole
group is dropped and counted if our infrastructure failed. More than a tenth of a step's groups ends the run before the
update. Any other exception ends it at once: it is a bug.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_cleaner.rollout.lost_trajectory import LostTrajectory, RolloutError, check_lost

logger = logging.getLogger(__name__)

Watcher = Callable[[KVBatchMeta, set[str]], None]
"""Gets every batch that is handed out, and the uids of the groups that were dropped from it."""


class CompleteGroups:
    """VeRL's replay buffer with another `sample`; everything else is VeRL's.

    Args:
        buffer: VeRL's.
        take_lost: returns what the agent loop workers lost since the last call.
        poll_interval: seconds; None leaves VeRL's, which the synchronous buffer does not read from the configuration.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        take_lost: Callable[[], list[LostTrajectory]],
        *,
        poll_interval: float | None = None,
    ) -> None:
        self._buffer = buffer
        self._take_lost = take_lost
        self._watcher: Watcher | None = None
        self._lost_trajectories: list[LostTrajectory] = []
        if poll_interval is not None:
            buffer.poll_interval = poll_interval
        self._wait_as_verl = buffer._wait_for_next_poll
        buffer._wait_for_next_poll = self._check_and_wait

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)

    @contextmanager
    def watched_by(self, watcher: Watcher) -> Iterator[None]:
        """Within it, `watcher` sees every batch."""
        self._watcher = watcher
        try:
            yield
        finally:
            self._watcher = None

    def sample(self, *, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """As VeRL's. Raises as `check_lost` does, while it waits, as soon as the loss is known."""
        self._lost_trajectories, self._groups, self._step = [], batch_size, global_steps
        try:
            batch, metrics = self._buffer.sample(
                global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
            )
        except RuntimeError:
            # VeRL's error says only that too few groups are left; ours says why.
            self._lost_groups()
            raise
        uids = self._lost_groups()
        unexplained = sorted(self._buffer.failure_keys[partition_id] - uids)
        if unexplained:
            raise RolloutError(
                f"step {global_steps}: {len(unexplained)} groups failed outside the agent loop; VeRL's worker logs the "
                f'reason as "Error in _run_prompt" for {unexplained[0]}'
            )
        if uids:
            cause = self._lost_trajectories[0].message
            logger.warning("step %d: dropped %d of %d groups: %s", global_steps, len(uids), batch_size, cause)
        batch = drop(batch, uids)
        prefix = "infrastructure" if partition_id == "train" else "val-aux/infrastructure"
        metrics[f"{prefix}/lost_groups"] = len(uids)
        metrics[f"{prefix}/lost_trajectories"] = len(self._lost_trajectories)
        if self._watcher is not None:
            self._watcher(batch, uids)
        return batch, metrics

    def _check_and_wait(self, partition_id: str, last_debug_time: float) -> float:
        self._lost_groups()
        return self._wait_as_verl(partition_id, last_debug_time)

    def _lost_groups(self) -> set[str]:
        """The uids of the groups that this step has lost so far."""
        self._lost_trajectories += self._take_lost()
        return check_lost(self._lost_trajectories, groups=self._groups, step=self._step)


def drop(batch: KVBatchMeta, uids: set[str]) -> KVBatchMeta:
    """`batch` without the trajectories of the groups `uids`, which are removed from TransferQueue as well."""
    dropped = [key for key in batch.keys if key.split("_")[0] in uids]
    if not dropped:
        return batch
    tq.kv_clear(keys=dropped, partition_id=batch.partition_id)
    kept = [(key, tag) for key, tag in zip(batch.keys, batch.tags, strict=True) if key.split("_")[0] not in uids]
    # At most a tenth of the groups is dropped.
    keys, tags = map(list, zip(*kept, strict=True))
    return KVBatchMeta(partition_id=batch.partition_id, keys=keys, tags=tags)
