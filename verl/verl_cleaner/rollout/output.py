"""A trajectory's output with what travels of its repairs: a mask of the overwritten tokens, and the pairs."""

from collections.abc import Sequence
from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from verl_cleaner.saar.pair import Pair
from verl_cleaner.training.pairs.travel import PAIRS_FIELD, pack

MASK_FIELD = "overwritten_mask"


class MarkedOutput(AgentLoopOutput):
    """spans: overwritten tokens [start, end) of the response. pairs: None where none are kept."""

    spans: tuple[tuple[int, int], ...] = ()
    pairs: Sequence[Pair] | None = None

    def as_dict(self) -> dict[str, Any]:
        output = super().as_dict()
        for name in ("spans", "pairs"):
            output.pop(name, None)
        mask = torch.zeros_like(output["response_mask"])
        for start, end in self.spans:
            mask[start:end] = 1
        output[MASK_FIELD] = mask
        if self.pairs is not None:
            output[PAIRS_FIELD] = pack(self.pairs)
        return output
