"""The baseline of a group from its unrepaired first attempts, for comparison with leaves.

    f_i  = r_f where a first attempt of trajectory i failed and was repaired, else its return R_i
    A_i  = R_i - mean(f)    on the trained tokens of trajectory i
    A_f  = r_f - mean(f)    on the leaves' tokens

What RLTF-SD (arXiv 2602.02482) does for second attempts: a repair is worth what it gains over the policy without help.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl_cleaner.rollout.carried import LEAVES_FIELD, unpack_leaves
from verl_cleaner.saar.leaf import Leaf
from verl_cleaner.training.credit.config import credit_config
from verl_cleaner.training.credit.metrics import leaf_metrics
from verl_cleaner.training.credit.minibatch import COLUMNS, VALUES_FIELD
from verl_cleaner.training.credit.score import failed_call_score

_ADVANTAGES = list(COLUMNS).index("advantages")


@dataclass(frozen=True, slots=True)
class FirstAttemptCredit:
    """A method of `credit.methods`. score: data_source -> r_f."""

    score: Callable[[str], float]
    samples: int = 0

    @classmethod
    def of(cls, config: DictConfig) -> Self | None:
        """None where the baseline is the group's."""
        on = credit_config(config.algorithm).first_attempt_baseline
        return cls(failed_call_score(config)) if on else None

    def loss_term(self) -> None:
        return None

    def after_advantages(self, batch: KVBatchMeta, metrics: dict[str, Any], *, step: int) -> KVBatchMeta:
        rows = self._rows(batch)
        means = group_means(rows)
        columns: dict[str, list[torch.Tensor]] = {"advantages": [(r.score - means[r.uid]) * r.mask for r in rows]}
        if rows[0].values is not None:
            columns[VALUES_FIELD] = [with_advantage(row.values, row.low - means[row.uid]) for row in rows]
        fields = {
            name: torch.nested.as_nested_tensor([row.float() for row in column], layout=torch.jagged)
            for name, column in columns.items()
        }
        batch = tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=len(batch.keys))
        )
        real = [row for row in rows if not row.padding]
        members = [(r.uid, r.score, int(r.mask.sum()), r.score - means[r.uid]) for r in real]
        leaves = [(r.uid, r.low, len(leaf.ids), r.low - means[r.uid]) for r in real for leaf in r.leaves]
        metrics.update(leaf_metrics(members, leaves))
        metrics["leaves/first_attempts_mean"] = sum(row.first for row in real) / len(real)
        return batch

    def _rows(self, batch: KVBatchMeta) -> list["FirstAttempt"]:
        names = ["rm_scores", "token_level_rewards", "response_mask", "data_source", LEAVES_FIELD, VALUES_FIELD]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        columns = (
            data["token_level_rewards" if "token_level_rewards" in data else "rm_scores"].unbind(),
            data["response_mask"].unbind(),
            data["data_source"],
            data[LEAVES_FIELD].unbind(),
            data[VALUES_FIELD].unbind() if VALUES_FIELD in data else [None] * len(batch.keys),
        )
        return [
            FirstAttempt(
                uid=key.rsplit("_", 2)[0],
                padding=tag.get("is_padding", False),
                score=float(rewards.sum()),
                low=self.score(getattr(source, "data", source)),
                mask=mask,
                leaves=unpack_leaves(packed),
                values=values,
            )
            for key, tag, rewards, mask, source, packed, values in zip(batch.keys, batch.tags, *columns, strict=True)
        ]

    def before_update(self, batch: KVBatchMeta, metrics: dict[str, Any], *, step: int) -> KVBatchMeta:
        return batch

    def finish_metrics(self, metrics: dict[str, Any]) -> None:
        pass


@dataclass(frozen=True, slots=True)
class FirstAttempt:
    """A trajectory. score: its return; low: r_f of its source. mask: of trained tokens. values: of VALUES_FIELD, None
    where no trajectory of the batch has a leaf."""

    uid: str
    padding: bool
    score: float
    low: float
    mask: torch.Tensor
    leaves: Sequence[Leaf]
    values: Any

    @property
    def first(self) -> float:
        """What it would have got without repair."""
        return self.low if self.leaves else self.score


def group_means(rows: Sequence[FirstAttempt]) -> dict[str, float]:
    """The mean of what the group's trajectories would have got, by its uid. VeRL's padding is a group of its own."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row.uid].append(row.first)
    return {uid: sum(group) / len(group) for uid, group in groups.items()}


def with_advantage(values: torch.Tensor, advantage: float) -> torch.Tensor:
    """`values` of VALUES_FIELD, its leaves' advantage replaced; what follows the last column is left out."""
    tokens = (len(values) - 1) // len(COLUMNS)
    table = values[1 : 1 + len(COLUMNS) * tokens].view(len(COLUMNS), tokens).clone()
    table[_ADVANTAGES] = advantage
    return torch.cat([values[:1], table.flatten()])
