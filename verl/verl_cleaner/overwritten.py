"""A trajectory's output with a mask of its overwritten tokens, which travels with the batch to the loss."""

from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

MASK_FIELD = "overwritten_mask"


class MarkedOutput(AgentLoopOutput):
    """spans: overwritten tokens [start, end) of the response."""

    spans: tuple[tuple[int, int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        output = super().as_dict()
        output.pop("spans", None)
        mask = torch.zeros_like(output["response_mask"])
        for start, end in self.spans:
            mask[start:end] = 1
        output[MASK_FIELD] = mask
        return output
