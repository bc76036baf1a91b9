"""VeRL's client for asynchronous rollout, which also scores given tokens.

VeRL's resumes what was aborted and joins the parts of a generation into a new reply, without the other fields, among
them `prompt_logprobs`, which `rescore` reads. A request for scores has no parts: here it is made again.
"""

import asyncio
from typing import Any

from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput

_ABORTED = ("aborted", "abort")
_PAUSE = 1.0
"""Seconds, as VeRL waits for the servers to come back."""


class ScoringClient(FullyAsyncLLMServerClient):
    async def generate(self, request_id: str, *, sampling_params: dict[str, Any], **kwargs: Any) -> TokenOutput:
        if "prompt_logprobs" not in sampling_params:
            return await super().generate(request_id, sampling_params=sampling_params, **kwargs)
        while True:
            output = await LLMServerClient.generate(self, request_id, sampling_params=sampling_params, **kwargs)
            if output.stop_reason not in _ABORTED:
                return output
            await asyncio.sleep(_PAUSE)
