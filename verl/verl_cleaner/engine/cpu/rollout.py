"""The CPU rollout server with VeRL's replica interface, and the trainer's part of its weight updates."""

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Generator
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from verl.workers.config import HFModelConfig, RolloutConfig
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput
from verl.workers.rollout.utils import ensure_async_iterator

from verl_cleaner.engine.cpu.batching import Batcher
from verl_cleaner.engine.cpu.sampling import Request, SamplingParams


def _actor_name(replica_rank: int) -> str:
    return f"cleaner_cpu_server_{replica_rank}"


class CpuServer:
    """Takes token ids and returns token ids, for at most `rollout.max_num_seqs` requests at a time."""

    def __init__(self, config: RolloutConfig, model_config: HFModelConfig) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.config = config
        self.max_model_len = config.max_model_len or config.prompt_length + config.response_length
        # The trainer sends the weights before the first request.
        model = AutoModelForCausalLM.from_config(
            model_config.hf_config, dtype=torch.float32, attn_implementation="sdpa"
        )
        self.batcher = Batcher(model, slots=config.max_num_seqs, max_length=self.max_model_len)
        generation = model_config.generation_config
        eos = (generation.eos_token_id if generation is not None else None) or model_config.tokenizer.eos_token_id
        self.eos_token_ids = frozenset([eos] if isinstance(eos, int) else eos)
        self.global_steps: int | None = None
        self._futures: dict[int, asyncio.Future[Request]] = {}
        self._arrivals = itertools.count()
        # By seed and tokens so far: the generators of what was aborted last.
        self._aborted: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
        self._loop_task: asyncio.Task[None] | None = None
        # Held while the batcher computes a step in its thread.
        self._stepping = asyncio.Lock()
        self._running = asyncio.Event()
        self._running.set()

    async def load_weights(self, weights: dict[str, torch.Tensor], global_steps: int | None) -> None:
        async with self._stepping:
            missing, unexpected = self.batcher.model.load_state_dict(weights, strict=False)
            self.batcher.model.tie_weights()
        tied = {"lm_head.weight"} if self.batcher.model.config.tie_word_embeddings else set()
        if set(missing) - tied or unexpected:
            raise ValueError(
                f"the trainer's weights do not fit the server's model: missing {missing}, got {unexpected}"
            )
        if global_steps is not None:
            self.global_steps = global_steps

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **_: Any
    ) -> TokenOutput:
        """The sampling parameters are VeRL's, under vLLM's names. `seed` makes a request repeatable. Without it, the
        seed is made from `rollout.seed` and the order of arrival."""
        await self._running.wait()
        params = dict(sampling_params)
        want_logprobs = bool(params.pop("logprobs", False))
        request = Request(prompt_ids=list(prompt_ids), params=self._params(params, len(prompt_ids)))
        # VeRL's client asks for the rest of an aborted request; its tokens are those it would have had.
        request.state = self._aborted.pop((request.params.seed, tuple(prompt_ids)), None)
        self.batcher.add(request)
        future = self._futures[id(request)] = asyncio.get_running_loop().create_future()
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._run())
        await future
        extra: dict[str, Any] = {"global_steps": self.global_steps}
        if request.params.prompt_logprobs:
            # As VeRL returns vLLM's: one entry a token; entry i belongs to token i + 1, and the last one has no
            # meaning.
            extra["prompt_ids"] = [[token] for token in [*prompt_ids[1:], 0]]
            extra["prompt_logprobs"] = [[logprob] for logprob in [*request.prompt_logprobs, 0.0]]
        return TokenOutput(
            token_ids=request.token_ids,
            log_probs=request.logprobs if want_logprobs else None,
            stop_reason="aborted" if request.finish_reason == "abort" else "completed",
            extra_fields=extra,
        )

    def _params(self, params: dict[str, Any], prompt_length: int) -> SamplingParams:
        limit = params.pop("max_tokens", params.pop("max_new_tokens", None))
        if limit is None:
            limit = min(
                self.config.response_length, self.config.prompt_length + self.config.response_length - prompt_length
            )
        ignore_eos = params.pop("ignore_eos", self.config.ignore_eos)
        stops = frozenset(params.pop("stop_token_ids", None) or ())
        prompt_logprobs, penalty = params.pop("prompt_logprobs", None), params.pop("repetition_penalty", 1.0)
        if penalty != 1.0:
            raise ValueError(f"repetition_penalty must be 1.0, as VeRL always asks for, on this server, got {penalty}")
        if prompt_logprobs not in (None, 0):
            raise ValueError(f"prompt_logprobs must be 0 (the given tokens only) on this server, got {prompt_logprobs}")
        seed = params.pop("seed", None)
        return SamplingParams(
            max_tokens=max(1, min(limit, self.max_model_len - prompt_length)),
            stop_token_ids=stops if ignore_eos else stops | self.eos_token_ids,
            seed=seed if seed is not None else hash((self.config.seed, next(self._arrivals))),
            prompt_logprobs=prompt_logprobs is not None,
            **params,
        )

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self.batcher.busy:
                async with self._stepping:
                    # In a thread, so that requests can arrive while a step is computed.
                    self._resolve(await loop.run_in_executor(None, self.batcher.step))
        except Exception as error:
            self.batcher.abort()
            for future in self._futures.values():
                future.set_exception(error)
            self._futures.clear()

    def _resolve(self, finished: list[Request]) -> None:
        for request in finished:
            self._futures.pop(id(request)).set_result(request)

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Running and waiting requests return with the tokens that they have. New ones wait for `resume_generation`."""
        self._running.clear()
        async with self._stepping:
            aborted = self.batcher.abort()
            self._aborted = {
                (request.params.seed, (*request.prompt_ids, *request.token_ids)): request.generator.get_state()
                for request in aborted
            }
            self._resolve(aborted)

    async def resume_generation(self) -> None:
        self._running.set()

    async def ready(self) -> None:
        """Returns when the model is built."""

    async def wake_up(self) -> None: ...

    async def sleep(self) -> None: ...

    async def clear_kv_cache(self) -> None: ...

    async def release_kv_cache(self) -> None: ...

    async def resume_kv_cache(self) -> None: ...

    async def start_profile(self, **_: Any) -> None: ...

    async def stop_profile(self) -> None: ...


class CpuReplica(RolloutReplica):
    """A replica is one `CpuServer` actor on the node of its worker."""

    async def launch_servers(self) -> None:
        from verl.utils.config import omega_conf_to_dataclass

        node = await self.workers[0].__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        server = (
            ray.remote(CpuServer)
            .options(
                name=_actor_name(self.replica_rank),
                num_cpus=1,
                max_concurrency=self.max_concurrency,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(self.config, omega_conf_to_dataclass(self.model_config))
        )
        await server.ready.remote()
        self.servers = [server]
        self._server_handle = server
        self._server_address = _actor_name(self.replica_rank)


class CpuServerAdapter(BaseRollout):
    """Sends the trainer's weights to the replica's server.

    replica_rank: -1 in a rank of the trainer, each of which has a server of its own.
    """

    def __init__(self, *args: Any, replica_rank: int = -1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None] | AsyncGenerator[tuple[str, torch.Tensor], None],
        wire_format: str = "named_tensors",
        *,
        global_steps: int | None = None,
        **_: Any,
    ) -> None:
        assert wire_format == "named_tensors", wire_format
        state = {name: tensor.detach().float().cpu() async for name, tensor in ensure_async_iterator(weights)}
        # In older versions of Ray the handle must live longer than the call.
        server = ray.get_actor(_actor_name(self.replica_rank))
        await server.load_weights.remote(state, global_steps)
