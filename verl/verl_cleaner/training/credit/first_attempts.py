"""The baseline of a group from its unrepaired first attempts, for comparison with leaves.

    f_i  = r_f where a first attempt of trajectory i failed and was repaired, else its return R_i
    A_i  = R_i - mean(f)    on the trained tokens of trajectory i
    A_f  = r_f - mean(f)    on the leaves' tokens

What RLTF-SD (arXiv 2602.02482) does for second attempts: a repair is worth what it gains over the policy without help.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from verl_cleaner.rollout.carried import LEAVES_FIELD
from verl_cleaner.training.credit.config import credit_config
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
        names = ["rm_scores", "token_level_rewards", "response_mask", "data_source", LEAVES_FIELD, VALUES_FIELD]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        rewards = data["token_level_rewards" if "token_level_rewards" in data else "rm_scores"].unbind()
        returns = [float(reward.sum()) for reward in rewards]
        low = [self.score(getattr(source, "data", source)) for source in data["data_source"]]
        padding = [tag.get("is_padding", False) for tag in batch.tags]
        failed = [int(packed[0]) > 0 for packed in data[LEAVES_FIELD].unbind()]
        firsts = {key: low[i] if failed[i] else returns[i] for i, key in enumerate(batch.keys) if not padding[i]}
        means = group_means(firsts)
        centre = [0.0 if padding[i] else means[key.rsplit("_", 2)[0]] for i, key in enumerate(batch.keys)]
        masks = data["response_mask"].unbind()
        columns = {"advantages": [(returns[i] - centre[i]) * mask for i, mask in enumerate(masks)]}
        if VALUES_FIELD in data:
            values = data[VALUES_FIELD].unbind()
            columns[VALUES_FIELD] = [with_advantage(row, low[i] - centre[i]) for i, row in enumerate(values)]
        fields = {
            name: torch.nested.as_nested_tensor([row.float() for row in rows], layout=torch.jagged)
            for name, rows in columns.items()
        }
        metrics["leaves/first_attempts_mean"] = sum(firsts.values()) / len(firsts)
        return tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=len(batch.keys))
        )

    def before_update(self, batch: KVBatchMeta, metrics: dict[str, Any], *, step: int) -> KVBatchMeta:
        return batch

    def finish_metrics(self, metrics: dict[str, Any]) -> None:
        pass


def group_means(scores: Mapping[str, float]) -> dict[str, float]:
    """scores: by VeRL's key of the trajectory. Returns the mean of each group, by its uid."""
    groups: dict[str, list[float]] = defaultdict(list)
    for key, score in scores.items():
        groups[key.rsplit("_", 2)[0]].append(score)
    return {uid: sum(group) / len(group) for uid, group in groups.items()}


def with_advantage(values: torch.Tensor, advantage: float) -> torch.Tensor:
    """`values` of VALUES_FIELD, its leaves' advantage replaced; what follows the last column is left out."""
    tokens = (len(values) - 1) // len(COLUMNS)
    table = values[1 : 1 + len(COLUMNS) * tokens].view(len(COLUMNS), tokens).clone()
    table[_ADVANTAGES] = advantage
    return torch.cat([values[:1], table.flatten()])
