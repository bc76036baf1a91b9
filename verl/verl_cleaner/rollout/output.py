"""A trajectory's output with what travels of its repairs: a mask of the overwritten tokens, the pairs, the leaves."""

from collections.abc import Sequence
from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from verl_cleaner.rollout.carried import PAIRS_FIELD, pack, pack_leaves
from verl_cleaner.saar.leaf import Leaf
from verl_cleaner.saar.pair import Pair

MASK_FIELD = "overwritten_mask"


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
