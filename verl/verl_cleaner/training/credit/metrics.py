"""What a step's leaves are and weigh. Statistics of groups elsewhere remain those of real trajectories."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

_EQUAL = 1e-8


def leaf_metrics(
    members: Sequence[tuple[str, float, int, float]], leaves: Sequence[tuple[str, float, int, float]]
) -> dict[str, float]:
    """The `leaves/` metrics of a step.

    Each row is (group, score, trained tokens, advantage). `saved_groups` are those whose trajectories all have one
    score, and whose leaves have another: without leaves GRPO learns nothing from them. `gradient_share` is the leaves'
    part of Σ |advantage| over all trained tokens.
    """
    groups, with_leaves = _scores(members), _scores([*members, *leaves])
    saved = sum(not _vary(scores) and _vary(with_leaves[group]) for group, scores in groups.items())
    tokens, all_tokens = sum(row[2] for row in leaves), sum(row[2] for row in [*members, *leaves])
    weight, all_weight = _weight(leaves), _weight([*members, *leaves])
    metrics = {
        "leaves/count": float(len(leaves)),
        "leaves/per_group": len(leaves) / len(groups) if groups else 0.0,
        "leaves/tokens": float(tokens),
        "leaves/token_share": tokens / all_tokens if all_tokens else 0.0,
        "leaves/gradient_share": weight / all_weight if all_weight else 0.0,
        "leaves/saved_groups": float(saved),
    }
    if leaves:
        metrics["leaves/advantage_mean"] = sum(row[3] for row in leaves) / len(leaves)
    return metrics


def _scores(rows: Sequence[tuple[str, float, int, float]]) -> Mapping[str, list[float]]:
    scores: dict[str, list[float]] = defaultdict(list)
    for group, score, *_ in rows:
        scores[group].append(score)
    return scores


def _vary(scores: Sequence[float]) -> bool:
    return max(scores) - min(scores) > _EQUAL


def _weight(rows: Sequence[tuple[str, float, int, float]]) -> float:
    return sum(tokens * abs(advantage) for _, _, tokens, advantage in rows)
