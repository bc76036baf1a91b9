"""Our rollout server without Ray, on a small random model, and a way to make it say what a script says."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from tiny import tiny_config, tiny_tokenizer
from transformers import Qwen3ForCausalLM
from verl.workers.rollout.replica import TokenOutput

from verl_cleaner.engine.cpu.rollout import CpuServer

TOKENIZER = tiny_tokenizer()
MAX_LENGTH = 1200


def random_model(seed: int = 0) -> Qwen3ForCausalLM:
    """With weights large enough for predictions to depend on the context, as a trained model's do."""
    torch.manual_seed(seed)
    config = tiny_config(
        len(TOKENIZER),
        max_position_embeddings=2 * MAX_LENGTH,
        initializer_range=0.4,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def cpu_server(model: Qwen3ForCausalLM) -> CpuServer:
    config = SimpleNamespace(
        max_model_len=MAX_LENGTH, prompt_length=200, response_length=1000, max_num_seqs=8, ignore_eos=False, seed=0
    )
    server = CpuServer(config, SimpleNamespace(hf_config=model.config, generation_config=None, tokenizer=TOKENIZER))
    server.batcher.model.load_state_dict(model.state_dict())
    return server


@torch.inference_mode()
def true_logprobs(model: Qwen3ForCausalLM, ids: list[int]) -> list[float]:
    """log π(ids[i] | ids[:i]) for i >= 1, by the model itself, in double precision."""
    logits = model.double()(torch.tensor([ids])).logits[0, :-1]
    model.float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1).tolist()


@dataclass
class ForcedServer:
    """Each reply is `sampled` tokens of the model's own, then the next text of the script, all with the log-probs that
    the engine gives them."""

    server: CpuServer
    script: list[str]
    sampled: int = 0
    tokenizer: Any = TOKENIZER
    logprobs: bool = True
    scored: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._script = iter(self.script)

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any):
        if "prompt_logprobs" in sampling_params:
            self.scored.append(prompt_ids)
            return await self.server.generate(prompt_ids, sampling_params, request_id)
        ids: list[int] = []
        if self.sampled:
            params = {**sampling_params, "max_tokens": self.sampled, "ignore_eos": True}
            ids = (await self.server.generate(prompt_ids, params, request_id)).token_ids
        ids = [*ids, *TOKENIZER.encode(next(self._script), add_special_tokens=False), TOKENIZER.eos_token_id]
        whole = [*prompt_ids, *ids]
        reply = await self.server.generate(whole, {"max_tokens": 1, "prompt_logprobs": 0}, request_id)
        logprobs = [entry[0] for entry in reply.extra_fields["prompt_logprobs"][len(prompt_ids) - 1 : -1]]
        return TokenOutput(token_ids=ids, log_probs=logprobs, extra_fields={"global_steps": 0})
