"""The policy's own words of a trajectory, turn by turn: from its tokens and their mask, or from its text alone."""

from collections.abc import Sequence
from itertools import groupby

from verl_cleaner.formats.base import ToolFormat

TURNS_FIELD = "policy_turns"
"""In the `extra_info` that a reward function gets: the words of every assistant turn, a list of texts."""


def of_tokens(texts: Sequence[str], mask: Sequence[int], tool_format: ToolFormat | None, *, end: str) -> list[str]:
    """From a response's tokens.

    texts: one a token, special tokens included. mask: 1 = sampled by the policy; other tokens part two turns. end: the
    tokenizer's end token. tool_format: None where the format is not ours; then the calls stay among the words.
    """
    turns = []
    for sampled, run in groupby(zip(mask, texts, strict=True), key=lambda token: bool(token[0])):
        if sampled:
            turn = "".join(text for _, text in run).removesuffix(end)
            turns.append(turn if tool_format is None else tool_format.words(turn))
    return turns


def of_text(response: str, tool_format: ToolFormat) -> list[str]:
    """From a response's text as VeRL decodes it for a reward function. Turns between the first tool response and the
    last are left out: a tool may have printed them."""
    return [tool_format.words(turn) for turn in tool_format.certain_turns(response)]
