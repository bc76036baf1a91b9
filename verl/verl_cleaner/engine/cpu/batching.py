"""Continuous batching of a small causal language model on CPU.

Requests wait in a queue. They join the running batch as soon as a slot is free, and leave it when they finish. One step
is one batched prefill of the new requests (equal prompts are computed once) and one batched decode of all running ones.

    slots      rows of the KV cache; running requests are rows 0..n-1: when one leaves, the last one moves to its row
    lengths    per row, how many tokens have their keys and values in the cache
"""

from collections import deque

import torch
from transformers import PreTrainedModel

from verl_cleaner.engine.cpu.sampling import Request, sample


class _SlotCache:
    """Keys and values of all slots. A model of transformers calls `update` and `get_seq_length` of a cache only."""

    is_compileable = False

    def __init__(self, model: PreTrainedModel, slots: int, max_length: int) -> None:
        config = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, max_length, head_dim)
        self.keys = torch.zeros(shape, dtype=model.dtype)
        self.values = torch.zeros(shape, dtype=model.dtype)
        self._prefill: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self._positions = torch.zeros(0, dtype=torch.long)

    def begin_prefill(self) -> None:
        self._prefill = []

    def end_prefill(self, sources: list[int], first_slot: int, lengths: list[int]) -> None:
        """Copy row `sources[i]` of the prefilled batch into slot `first_slot + i`."""
        assert self._prefill is not None
        for layer, (keys, values) in enumerate(self._prefill):
            for offset, (source, length) in enumerate(zip(sources, lengths, strict=True)):
                self.keys[layer, first_slot + offset, :, :length] = keys[source, :, :length]
                self.values[layer, first_slot + offset, :, :length] = values[source, :, :length]
        self._prefill = None

    def begin_decode(self, positions: torch.Tensor) -> None:
        self._positions = positions

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object) -> tuple[torch.Tensor, ...]:
        if self._prefill is not None:
            self._prefill.append((keys, values))
            return keys, values
        rows = torch.arange(len(self._positions))
        self.keys[layer, rows, :, self._positions] = keys[:, :, 0]
        self.values[layer, rows, :, self._positions] = values[:, :, 0]
        longest = int(self._positions.max()) + 1
        return self.keys[layer, : len(rows), :, :longest], self.values[layer, : len(rows), :, :longest]

    def get_seq_length(self, layer: int = 0) -> int:
        return 0 if self._prefill is not None else int(self._positions.max())

    def move(self, source: int, target: int, length: int) -> None:
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]


class Batcher:
    """Generate for many requests at once.

    Args:
        model: a causal LM of transformers with SDPA or eager attention.
        slots: requests that run together.
        max_length: most tokens of a request, prompt and response together.
    """

    def __init__(self, model: PreTrainedModel, *, slots: int, max_length: int) -> None:
        self.model = model.eval()
        self.slots = slots
        self.max_length = max_length
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._cache = _SlotCache(model, slots, max_length)

    def add(self, request: Request) -> None:
        """Queue a request. Raises ValueError if the prompt leaves no room for a token."""
        if not request.prompt_ids:
            raise ValueError("prompt_ids is empty, expected at least one token")
        if len(request.prompt_ids) >= self.max_length:
            raise ValueError(
                f"the prompt has {len(request.prompt_ids)} tokens, expected fewer than max_model_len={self.max_length}"
            )
        if request.state is None:
            request.generator.manual_seed(request.params.seed & (2**63 - 1))
        else:
            request.generator.set_state(request.state)
        self.waiting.append(request)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Advance by one token and return the requests that finished."""
        finished: list[Request] = []
        if self.waiting and len(self.running) < self.slots:
            finished += self._join()
        if self.running:
            finished += self._decode()
        return finished

    def abort(self) -> list[Request]:
        """Stop all requests and return them with the tokens that they have."""
        aborted = [*self.running, *self.waiting]
        for request in aborted:
            request.finish_reason = "abort"
        self.running.clear()
        self.waiting.clear()
        return aborted

    def _join(self) -> list[Request]:
        first = len(self.running)
        joining = [self.waiting.popleft() for _ in range(min(self.slots - first, len(self.waiting)))]
        unique = list(dict.fromkeys(tuple(request.prompt_ids) for request in joining))
        rows = {prompt: row for row, prompt in enumerate(unique)}
        sources = [rows[tuple(request.prompt_ids)] for request in joining]
        lengths = torch.tensor([len(prompt) for prompt in unique])
        longest = int(lengths.max())
        input_ids = torch.zeros(len(unique), longest, dtype=torch.long)
        for row, prompt in enumerate(unique):
            input_ids[row, : len(prompt)] = torch.tensor(prompt)
        # Padding stands after the real tokens of a row, so the causal mask alone hides it.
        causal = torch.ones(longest, longest, dtype=torch.bool).tril().expand(len(unique), 1, longest, longest)
        self._cache.begin_prefill()
        hidden = self._hidden(input_ids, torch.arange(longest).expand(len(unique), -1), causal)
        self._cache.end_prefill(sources, first, [len(request.prompt_ids) for request in joining])
        logits = self._logits(hidden[torch.arange(len(unique)), lengths - 1])[sources]
        for request, source in zip(joining, sources, strict=True):
            if request.params.prompt_logprobs:
                request.prompt_logprobs = self._prompt_logprobs(hidden[source], request.prompt_ids)
        self.running += joining
        return self._append(first, logits)

    def _decode(self) -> list[Request]:
        positions = torch.tensor([len(r.prompt_ids) + len(r.token_ids) - 1 for r in self.running])
        input_ids = torch.tensor([[r.token_ids[-1]] for r in self.running])
        visible = torch.arange(int(positions.max()) + 1) <= positions[:, None]
        self._cache.begin_decode(positions)
        hidden = self._hidden(input_ids, positions[:, None], visible[:, None, None, :])
        return self._append(0, self._logits(hidden[:, 0]))

    def _hidden(self, input_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = self.model.model(
            input_ids=input_ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(hidden).float()

    def _prompt_logprobs(self, hidden: torch.Tensor, prompt_ids: list[int]) -> list[float]:
        targets = torch.tensor(prompt_ids[1:], dtype=torch.long)
        logprobs = self._logits(hidden[: len(targets)]).log_softmax(-1)
        return logprobs.gather(-1, targets[:, None]).squeeze(-1).tolist()

    def _append(self, first: int, logits: torch.Tensor) -> list[Request]:
        """Sample one token for each row from `first` on, then move rows into the slots of finished requests."""
        rows = self.running[first:]
        tokens, logprobs = sample(logits, rows)
        for request, token, logprob in zip(rows, tokens, logprobs, strict=True):
            request.token_ids.append(token)
            request.logprobs.append(logprob)
            if token in request.params.stop_token_ids:
                request.finish_reason = "stop"
            elif (
                len(request.token_ids) >= request.params.max_tokens
                or len(request.prompt_ids) + len(request.token_ids) >= self.max_length
            ):
                request.finish_reason = "length"
        finished = [request for request in rows if request.finish_reason]
        for request in finished:
            slot, last = self.running.index(request), len(self.running) - 1
            moved = self.running.pop()
            if slot != last:
                self._cache.move(last, slot, len(moved.prompt_ids) + len(moved.token_ids) - 1)
                self.running[slot] = moved
        return finished
