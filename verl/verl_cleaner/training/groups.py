"""Complete groups only: what becomes of a step that lost trajectories.

VeRL's replay buffer hands out whatever is left of a group in which a trajectory ended in an exception. Here the whole
group is dropped and counted if infrastructure or the reward function failed; `FailurePolicy` says how many a step may
lose. Any other exception ends the run at once: it is a bug. With VeRL's `sync_refill_failed_groups` a group that lost a
trajectory is replaced by a fresh one.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_cleaner.rollout.lost_trajectory import FailurePolicy, LossCause, LostTrajectory, RolloutError, check_lost

logger = logging.getLogger(__name__)

Watcher = Callable[[KVBatchMeta, Mapping[str, LossCause]], None]
"""Gets every batch that is handed out, and why groups were dropped from it, by their uids."""


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
        policy: FailurePolicy | None = None,
    ) -> None:
        self._buffer = buffer
        self._take_lost = take_lost
        self._watcher: Watcher | None = None
        self._lost_trajectories: list[LostTrajectory] = []
        self._policy = policy or FailurePolicy()
        self._logged_kinds: set[str] = set()
        if poll_interval is not None:
            buffer.poll_interval = poll_interval
        self._wait_as_verl = buffer._wait_for_next_poll
        buffer._wait_for_next_poll = self._check_and_wait
        if getattr(buffer, "sync_refill_failed_groups", False):
            self._evicted_by_verl = buffer._terminal_eviction_reasons
            buffer._terminal_eviction_reasons = self._evicted

    def _evicted(self, global_steps: int, partition_id: str) -> tuple[set[str], set[str], set[str], Any]:
        """VeRL refills a group of which nothing is left; here also one that lost part of its trajectories."""
        stale, filtered, failed, counts = self._evicted_by_verl(global_steps, partition_id)
        if partition_id != "val":
            failed = failed | self._buffer.failure_keys[partition_id]
        return stale, filtered, failed, counts

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
        lost = self._lost_groups()
        unexplained = sorted(self._buffer.failure_keys[partition_id] - lost.keys())
        if unexplained:
            raise RolloutError(
                f"step {global_steps}: {len(unexplained)} groups failed outside the agent loop; VeRL's worker logs the "
                f'reason as "Error in _run_prompt" for {unexplained[0]}'
            )
        if lost:
            cause = self._lost_trajectories[0].message.strip().splitlines()[-1]
            logger.warning("step %d: dropped %d of %d groups: %s", global_steps, len(lost), batch_size, cause)
        batch = drop(batch, lost.keys())
        metrics.update(loss_metrics(lost, self._lost_trajectories, validate=partition_id != "train"))
        if self._watcher is not None:
            self._watcher(batch, lost)
        return batch, metrics

    def _check_and_wait(self, partition_id: str, last_debug_time: float) -> float:
        self._lost_groups()
        return self._wait_as_verl(partition_id, last_debug_time)

    def _lost_groups(self) -> dict[str, LossCause]:
        """The groups that this step has lost so far: why, by uid."""
        new = self._take_lost()
        self._lost_trajectories += new
        for lost in new:
            if lost.cause is LossCause.REWARD and lost.kind not in self._logged_kinds:
                self._logged_kinds.add(lost.kind)
                logger.error("the reward function raised %s; its group is lost:\n%s", lost.kind, lost.message)
        return check_lost(self._lost_trajectories, groups=self._groups, step=self._step, policy=self._policy)


def loss_metrics(
    groups: Mapping[str, LossCause], trajectories: Iterable[LostTrajectory], *, validate: bool
) -> dict[str, int]:
    """Lost groups and trajectories by cause: `infrastructure/` for outages, `reward/` for the reward function."""
    prefix, losses = "val-aux/" if validate else "", [lost.cause for lost in trajectories]
    metrics = {}
    for name, cause in (("infrastructure", LossCause.OUTAGE), ("reward", LossCause.REWARD)):
        metrics[f"{prefix}{name}/lost_groups"] = list(groups.values()).count(cause)
        metrics[f"{prefix}{name}/lost_trajectories"] = losses.count(cause)
    return metrics


def drop(batch: KVBatchMeta, uids: Set[str]) -> KVBatchMeta:
    """`batch` without the trajectories of the groups `uids`, which are removed from TransferQueue as well."""
    dropped = [key for key in batch.keys if key.split("_")[0] in uids]
    if not dropped:
        return batch
    tq.kv_clear(keys=dropped, partition_id=batch.partition_id)
    kept = [(key, tag) for key, tag in zip(batch.keys, batch.tags, strict=True) if key.split("_")[0] not in uids]
    keys, tags = [key for key, _ in kept], [tag for _, tag in kept]
    return KVBatchMeta(partition_id=batch.partition_id, keys=keys, tags=tags)
