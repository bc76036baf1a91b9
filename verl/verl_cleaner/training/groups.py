"""Complete groups only: what becomes of a step that lost trajectories.

VeRL's replay buffer hands out whatever is left of a group in which a trajectory ended in an exception. Here the whole
group is dropped and counted if infrastructure or the reward function failed; `FailurePolicy` says how many a step may
lose. Any other exception ends the run at once: it is a bug. With VeRL's `sync_refill_failed_groups`, and always in
asynchronous training, a group that lost a trajectory is replaced by a fresh one.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_cleaner.rollout.lost_trajectory import FailurePolicy, LossCause, LostTrajectory, RolloutError, check_lost

logger = logging.getLogger(__name__)

_TRAIN = "train"
"""TransferQueue's partition."""

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
        # By partition; those of the step in progress.
        self._lost: dict[str, list[LostTrajectory]] = {"train": [], "val": []}
        self._explained: set[str] = set()
        self._losses: Counter[str] = Counter()
        self._partition, self._groups, self._step = "train", 0, 0
        self._policy = policy or FailurePolicy()
        self._logged_kinds: set[str] = set()
        if poll_interval is not None:
            buffer.poll_interval = poll_interval
        self._wait_as_verl = buffer._wait_for_next_poll
        buffer._wait_for_next_poll = self._check_and_wait
        if isinstance(buffer, ReplayBufferAsync) or getattr(buffer, "sync_refill_failed_groups", False):
            self._evicted_by_verl = buffer._terminal_eviction_reasons
            buffer._terminal_eviction_reasons = self._evicted

    def _evicted(self, global_steps: int, partition_id: str) -> tuple[set[str], set[str], set[str], Any]:
        """VeRL's synchronous buffer refills a group of which nothing is left; here also one that lost part of its
        trajectories. The asynchronous one refills both, whatever the reason: for ever, if the reason stays."""
        stale, filtered, failed, counts = self._evicted_by_verl(global_steps, partition_id)
        if partition_id != "val":
            failed = failed | self._buffer.failure_keys[partition_id]
            if failed:
                self._lost_groups()
                self._check_explained(failed)
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
        self._begin(global_steps, partition_id, batch_size)
        try:
            batch, metrics = self._buffer.sample(
                global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
            )
        except RuntimeError:
            # VeRL's error says only that too few groups are left; ours says why.
            self._lost_groups()
            raise
        lost = self._lost_groups()
        self._check_explained(self._buffer.failure_keys[partition_id])
        trajectories, self._lost[partition_id] = self._lost[partition_id], []
        if lost:
            cause = trajectories[0].message.strip().splitlines()[-1]
            logger.warning("step %d: dropped %d of %d groups: %s", global_steps, len(lost), batch_size, cause)
        batch = drop(batch, lost.keys())
        losses = loss_metrics(lost, trajectories, validate=partition_id != "train")
        metrics.update(losses)
        self._losses.update(losses)
        if self._watcher is not None:
            self._watcher(batch, lost)
        return batch, metrics

    def take_losses(self) -> dict[str, int]:
        """`loss_metrics` of the training batches since the last call. An asynchronous step may have several
        batches, over which VeRL averages."""
        losses, self._losses = self._losses, Counter()
        return {key: count for key, count in losses.items() if not key.startswith("val-")}

    def resumed(self) -> None:
        """To be called before training begins. An asynchronous run's checkpoint brings back groups that had failed and
        were not replaced yet, but not why: the run that lost them knew, and would have ended for a bug."""
        restored = tq.kv_list(_TRAIN) or {}
        self._explained |= {uid for uid, tag in restored.get(_TRAIN, {}).items() if tag.get("status") == "failure"}

    def wait_for_sampleable(self, global_steps: int, partition_id: str, target_count: int) -> Any:
        """As VeRL's asynchronous buffer has it, for a trainer that waits before it samples. Raises as `sample` does."""
        self._begin(global_steps, partition_id, target_count)
        return self._buffer.wait_for_sampleable(global_steps, partition_id, target_count)

    def _begin(self, global_steps: int, partition_id: str, groups: int) -> None:
        self._step, self._partition, self._groups = global_steps, partition_id, groups

    def _check_and_wait(self, partition_id: str, last_debug_time: float) -> float:
        self._lost_groups()
        return self._wait_as_verl(partition_id, last_debug_time)

    def _lost_groups(self) -> dict[str, LossCause]:
        """The groups that this step has lost so far: why, by uid."""
        for lost in self._take_lost():
            self._lost["val" if lost.validate else "train"].append(lost)
            self._explained.add(lost.uid)
            if lost.cause is LossCause.REWARD and lost.kind not in self._logged_kinds:
                self._logged_kinds.add(lost.kind)
                logger.error("the reward function raised %s; its group is lost:\n%s", lost.kind, lost.message)
        if not self._groups:  # asked for by a trainer that has not sampled yet
            return {}
        return check_lost(self._lost[self._partition], groups=self._groups, step=self._step, policy=self._policy)

    def _check_explained(self, failed: Set[str]) -> None:
        unexplained = sorted(failed - self._explained)
        if unexplained:
            raise RolloutError(
                f"step {self._step}: {len(unexplained)} groups failed outside the agent loop; VeRL's worker logs the "
                f'reason as "Error in _run_prompt" for {unexplained[0]}'
            )


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
