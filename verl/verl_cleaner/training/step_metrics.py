"""Metrics of a training step that VeRL does not have: accuracy, composition of the batch, groups that teach nothing."""

from collections.abc import Mapping

from verl_cleaner.training.batch import ExtraFields


def batch_metrics(extra: ExtraFields, *, negatives: int = 0) -> dict[str, float]:
    """Accuracy as the reward function reports it (`acc`), and the composition of the batch.

    extra: of the real trajectories, the positive samples. negatives: failed calls that are trained on beside them.
    """
    infos = [fields.get("reward_extra_info", {}) for fields in extra.values()]
    accuracies = [float(info["acc"]) for info in infos if "acc" in info]
    metrics = {
        "grpo/num_positive_samples": float(len(extra)),
        "grpo/num_negative_samples": float(negatives),
        "grpo/total_samples": float(len(extra) + negatives),
        "grpo/negative_ratio": negatives / (len(extra) + negatives) if extra else 0.0,
    }
    if accuracies:
        metrics["critic/score/acc"] = sum(accuracies) / len(accuracies)
    return metrics


def zero_variance_groups(scores: Mapping[str, float]) -> dict[str, float]:
    """The share of groups whose trajectories all have one score: GRPO learns nothing from them.

    scores: by VeRL's key `{uid}_{rollout}_{output}`, as the trainer uses them.
    """
    groups: dict[str, set[float]] = {}
    for key, score in scores.items():
        groups.setdefault(key.split("_")[0], set()).add(score)
    if not groups:
        return {}
    return {"grpo/zero_variance_groups": sum(len(group) == 1 for group in groups.values()) / len(groups)}
