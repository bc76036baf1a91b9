"""Every source's reward, for VeRL: `reward.custom_reward_function.path=pkg://verl_cleaner.reward.router`.

A row's `data_source` decides by which rule it is scored (`verl_cleaner.reward.sources`). Options, as
`+reward.custom_reward_function.reward_kwargs.NAME=…`:

    math_verify   ask math-verify beside the strict rule (`verified` in the result)
    early_stop    end a program's tests at the first that fails; for evaluation, where only accuracy counts
    sources       a YAML of your own with further sources
    judge_url     else CODE_JUDGE_URL, else the judge's default address
    tool_format   of responses that come as text only (see `own_words`); default hermes
"""

import asyncio
from typing import Any

from code_judge.client import judge_url as default_judge_url
from verl_cleaner.reward import choice, code, mathematics, reasoning_gym
from verl_cleaner.reward.judging import judge_at
from verl_cleaner.reward.own_words import DEFAULT_FORMAT, own_words
from verl_cleaner.reward.result import Reward, answer_reward
from verl_cleaner.reward.sources import Kind, load
from verl_cleaner.reward.verifier import MathVerifier

_verifier: MathVerifier | None = None


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    math_verify: bool = False,
    early_stop: bool = False,
    sources: str | None = None,
    judge_url: str | None = None,
    tool_format: str = DEFAULT_FORMAT,
    **_: Any,
) -> dict[str, Any]:
    """Return the fields of `Reward`.

    Raises:
        ValueError: source or tool format are unknown, or the row's ground truth is broken.
        InfrastructureError: the judge or a verifier's process failed; the trajectory is lost, not wrong.
    """
    extra = extra_info or {}
    where = f"data_source {data_source}, row {extra.get('index', '?')}"
    words = own_words(solution_str, extra, tool_format=tool_format)
    reward: Reward
    match load(sources).kind(data_source, where=where):
        case Kind.MATH:
            verify = _math_verifier().verify if math_verify else None
            reward = await mathematics.score(words.text, ground_truth, verify=verify)
        case Kind.CHOICE:
            reward = choice.score(words.text, ground_truth)
        case Kind.CODE:
            judge = judge_at(default_judge_url(judge_url))
            reward = await code.score(words.final, ground_truth, judge=judge, early_stop=early_stop, where=where)
        case Kind.REASONING_GYM:
            # Some verifiers take their time.
            found = await asyncio.to_thread(
                reasoning_gym.compute_score,
                data_source,
                solution_str,
                str(ground_truth),
                extra,
                tool_format=tool_format,
            )
            reward = answer_reward(found["pred"] or None, right=found["acc"] == 1.0, low=0.0)
    return reward.as_dict()


def wrong_answer_score(data_source: str, *, sources: str | None = None, **_: Any) -> float:
    """Also of a program that is none. Raises ValueError: the source is unknown."""
    return 0.0 if load(sources).kind(data_source, where=f"data_source {data_source}") is Kind.REASONING_GYM else -1.0


def _math_verifier() -> MathVerifier:
    global _verifier
    if _verifier is None:
        _verifier = MathVerifier()
    return _verifier
