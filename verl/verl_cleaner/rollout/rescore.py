"""Log-probs that the rollout engine gives to overwritten tokens without the error in view.

An overwritten call was sampled after the error it repairs, and is trained without it; importance sampling needs
log π_rollout(call | clean context). One request that generates nothing scores the whole trajectory up to its last
overwritten token. What the tokens gain or lose thereby is the purification gap.
"""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from verl_cleaner.saar.record import TrajectoryRecord

if TYPE_CHECKING:
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

_PARAMS = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}


def check_config(rollout: Any) -> None:
    """Refuse `rollback_logprobs=rescore` where the engine's scores are not those it samples by.

    Raises:
        ValueError: names the key, what it is and what it has to be.
    """
    for key, expected in (("calculate_log_probs", (True,)), ("temperature", (1,)), ("top_p", (1,)), ("top_k", (-1, 0))):
        if rollout.get(key) not in expected:
            raise ValueError(
                f"rollback_logprobs=rescore needs actor_rollout_ref.rollout.{key}={expected[0]}, got {rollout.get(key)}"
            )


def is_exact(sampling_params: dict[str, Any]) -> bool:
    """Whether requests with these parameters sample from what `score` returns."""
    plain = sampling_params.get("temperature") == 1 and sampling_params.get("top_p", 1) == 1
    return bool(plain and sampling_params.get("top_k", -1) <= 0 and sampling_params.get("logprobs", True))


async def score(server: Any, ids: list[int], start: int, **media: Any) -> list[float]:
    """log π(ids[i] | ids[:i]) for every i from `start` on, start >= 1."""
    output = await server.generate(uuid4().hex, prompt_ids=ids, sampling_params=dict(_PARAMS), **media)
    # Entry i belongs to token i + 1; the last one is a dummy.
    scores = [float(entry[0]) for entry in output.extra_fields["prompt_logprobs"][start - 1 : len(ids) - 1]]
    if len(scores) != len(ids) - start:
        raise RuntimeError(f"the rollout engine scored {len(scores)} of {len(ids) - start} tokens")
    return scores


async def rescore_output(server: Any, output: "AgentLoopOutput", record: TrajectoryRecord, **media: Any) -> None:
    """Replace the log-probs of all overwritten tokens of a finished trajectory and note each span's gap."""
    spans = record.overwritten_spans()
    if not spans or output.response_logprobs is None:
        return
    prompt, first = len(output.prompt_ids), min(start for start, _ in spans.values())
    ids = output.prompt_ids + output.response_ids[: max(end for _, end in spans.values())]
    scores = await score(server, ids, prompt + first, **media)
    for turn, (start, end) in spans.items():
        clean = scores[start - first : end - first]
        record.note_gap(turn, sum(clean) - sum(output.response_logprobs[start:end]))
        output.response_logprobs[start:end] = clean
