"""What a trajectory carries of its repairs, as tensors beside its tokens: which were overwritten, pairs, and leaves.

MASK_FIELD          as the response's mask: 1 on overwritten tokens
PAIRS_FIELD         int64 (1 + 3 pairs + ids,): number of pairs; start, end and failed tokens of each; all failed ids
LEAVES_FIELD        int64 (1 + 2 leaves + ids,): number of leaves; start and tokens of each; all ids
LEAF_SCORES_FIELD   float32 (1 + ids,): 1 and the log-probs of the leaves' tokens as sampled, or only 0 where the
                    rollout keeps none

The fields of pairs and leaves are never empty and say their own length, so they survive whatever VeRL does to a batch:
jagged or padded, in any order, in parts. VeRL's padding rows copy them from a real row; readers leave padding out.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from verl_cleaner.saar.leaf import Leaf
from verl_cleaner.saar.pair import Pair

MASK_FIELD = "overwritten_mask"
PAIRS_FIELD = "negative_pairs"
LEAVES_FIELD = "failed_leaves"
LEAF_SCORES_FIELD = "failed_leaf_logprobs"


class MarkedOutput(AgentLoopOutput):
    """spans: overwritten tokens [start, end) of the response. pairs, leaves: None where none are kept."""

    spans: tuple[tuple[int, int], ...] = ()
    pairs: Sequence[Pair] | None = None
    leaves: Sequence[Leaf] | None = None

    def as_dict(self) -> dict[str, Any]:
        output = super().as_dict()
        for name in ("spans", "pairs", "leaves"):
            output.pop(name, None)
        mask = torch.zeros_like(output["response_mask"])
        for start, end in self.spans:
            mask[start:end] = 1
        output[MASK_FIELD] = mask
        if self.pairs is not None:
            output[PAIRS_FIELD] = pack(self.pairs)
        if self.leaves is not None:
            output |= pack_leaves(self.leaves)
        return output


def pack(pairs: Sequence[Pair]) -> torch.Tensor:
    head = [value for pair in pairs for value in (pair.start, pair.end, len(pair.failed))]
    return torch.tensor([len(pairs), *head, *(token for pair in pairs for token in pair.failed)], dtype=torch.int64)


def unpack(packed: torch.Tensor) -> list[Pair]:
    """Inverse of `pack`; what follows the last pair is ignored."""
    count, *rest = packed.tolist()
    at, pairs = 3 * count, []
    for start, end, size in zip(*(rest[i : 3 * count : 3] for i in range(3)), strict=True):
        pairs.append(Pair(start, end, tuple(rest[at : at + size])))
        at += size
    return pairs


def pack_leaves(leaves: Sequence[Leaf]) -> dict[str, torch.Tensor]:
    head = [value for leaf in leaves for value in (leaf.start, len(leaf.ids))]
    ids = [token for leaf in leaves for token in leaf.ids]
    known = [leaf.logprobs for leaf in leaves if leaf.logprobs is not None]
    assert len(known) in (0, len(leaves)), "a rollout keeps log-probs of all tokens or of none"
    scores = [1.0, *(value for logprobs in known for value in logprobs)] if known else [0.0]
    return {
        LEAVES_FIELD: torch.tensor([len(leaves), *head, *ids], dtype=torch.int64),
        LEAF_SCORES_FIELD: torch.tensor(scores, dtype=torch.float32),
    }


def unpack_leaves(packed: torch.Tensor, scores: torch.Tensor | None = None) -> list[Leaf]:
    """Inverse of `pack_leaves`; what follows the last leaf is ignored. scores: None leaves the log-probs out."""
    count, *rest = packed.tolist()
    sizes = rest[1 : 2 * count : 2]
    ids = rest[2 * count :]
    known = scores.tolist()[1:] if scores is not None and scores[0] == 1 else None
    leaves = []
    for start, size, end in zip(rest[0 : 2 * count : 2], sizes, accumulate(sizes), strict=True):
        part = slice(end - size, end)
        leaves.append(Leaf(start, tuple(ids[part]), None if known is None else tuple(known[part])))
    return leaves
