"""Leaves in VeRL's trainer: rows of the batch from the old log-probs to the advantages, then part of their trajectory.

VeRL's own methods compute for members and leaves alike; see `verl_cleaner.training.credit`.
"""

from collections.abc import Callable, Mapping, Sequence
from math import lcm
from typing import TYPE_CHECKING, Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from verl_cleaner.config import rollback_config
from verl_cleaner.saar.config import FailedCalls, LeafWeight
from verl_cleaner.training.credit.metrics import leaf_metrics
from verl_cleaner.training.credit.minibatch import COLUMNS, VALUES_FIELD, pack_values
from verl_cleaner.training.credit.rows import LeafRows, put_rows, row_key
from verl_cleaner.training.credit.score import failed_call_score

_Trainer: Any = PPOTrainer if TYPE_CHECKING else object


class LeafTrainerMixin(_Trainer):
    """`rollback_failed_calls` for a subclass of VeRL's `PPOTrainer`."""

    _leaves: LeafRows | None = None
    _score: Callable[[str], float] | None = None

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_old_log_prob(batch, metrics)
        saar = rollback_config(self.config.actor_rollout_ref.rollout.multi_turn)
        if saar.rollback_failed_calls == FailedCalls.LEAF:
            self._score = self._score or failed_call_score(self.config)
            self._leaves = put_rows(
                batch,
                self._score,
                split=saar.rollback_failed_call_weight == LeafWeight.SPLIT,
                workers=self._scoring_workers(),
                micro_batch=self._scoring_micro_batch(),
                eos=self.tokenizer.eos_token_id,
            )
            if self._leaves is not None:
                # The metrics of this step are of real trajectories.
                super()._compute_old_log_prob(self._leaves.batch, {})
        return batch

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_ref_log_prob(batch, metrics)
        if self._leaves is not None:
            super()._compute_ref_log_prob(self._leaves.batch, {})
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        leaves, self._leaves = self._leaves, None
        if leaves is None:
            batch = super()._compute_advantage(batch, metrics)
            if self._score is not None:
                metrics.update(leaf_metrics(_members(batch), []))
            return batch
        keys = leaves.keys()
        together = KVBatchMeta(
            partition_id=batch.partition_id,
            keys=[*batch.keys, *keys],
            tags=[*batch.tags, *({} for _ in keys)],
            extra_info=batch.extra_info,
        )
        super()._compute_advantage(together, metrics)
        leaves.split_weight()
        values = _values(leaves, batch.partition_id)
        metrics.update(leaf_metrics(_members(batch), _summaries(keys, batch.partition_id)))
        metrics["leaves/sequence_tokens"] = float(leaves.tokens())
        leaves.clear()
        column = [pack_values(values.get(key, [])) for key in batch.keys]
        fields = {VALUES_FIELD: torch.nested.as_nested_tensor(column, layout=torch.jagged)}
        # A batch names the fields that its workers get.
        return tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=len(batch.keys))
        )

    def _scoring_workers(self) -> int:
        """Over how many workers rows are dealt out; a reference policy may have another number than the actor."""
        meshes = [(self.actor_rollout_wg, "actor")]
        if self.use_reference_policy and not self.ref_in_actor:
            meshes.append((self.ref_policy_wg, "ref"))
        for group, mesh in meshes:
            if mesh not in group._dispatch_info:
                group._dispatch_info[mesh] = group._query_dispatch_info(mesh)
        return lcm(*(max(group._dispatch_info[mesh]) + 1 for group, mesh in meshes))

    def _scoring_micro_batch(self) -> int | None:
        """The smaller one of actor and reference policy; None where both cut by tokens."""
        sections = [self.config.actor_rollout_ref.rollout]
        if self.use_reference_policy and not self.ref_in_actor:
            sections.append(self.config.actor_rollout_ref.ref)
        sizes = [s.log_prob_micro_batch_size_per_gpu for s in sections if not s.log_prob_use_dynamic_bsz]
        return min(sizes) if sizes else None


def _values(leaves: LeafRows, partition_id: str) -> dict[str, list[dict[str, torch.Tensor]]]:
    """By the trajectory's key, what was computed for the tokens of each of its leaves."""
    data = tq.kv_batch_get(keys=leaves.keys(), partition_id=partition_id, select_fields=list(COLUMNS))
    columns = {name: data[name].unbind() for name in COLUMNS if name in data}
    numbers = {key: i for i, key in enumerate(leaves.keys())}
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    for key, own in leaves.leaves.items():
        rows = [numbers[row_key(key, number)] for number in range(len(own))]
        found[key] = [
            {name: column[row][-len(leaf.ids) :] for name, column in columns.items()}
            for row, leaf in zip(rows, own, strict=True)
        ]
    return found


def _members(batch: KVBatchMeta) -> list[tuple[str, float, int, float]]:
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    return _summaries(keys, batch.partition_id)


def _summaries(keys: Sequence[str], partition_id: str) -> list[tuple[str, float, int, float]]:
    """(group, score, trained tokens, mean advantage over them) of each row."""
    names = ["rm_scores", "response_mask", "advantages"]
    data = tq.kv_batch_get(keys=list(keys), partition_id=partition_id, select_fields=names)
    columns: Mapping[str, Any] = {name: data[name].unbind() for name in names}
    rows = []
    for key, scores, mask, advantages in zip(keys, *columns.values(), strict=True):
        tokens = int(mask.sum())
        mean = float((advantages * mask).sum()) / tokens if tokens else 0.0
        rows.append((key.rsplit("_", 2)[0], float(scores.sum()), tokens, mean))
    return rows
