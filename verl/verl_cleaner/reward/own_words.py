"""What a reward scores: the policy's own words, turn by turn, without its tool calls and without what tools printed.

In training and evaluation the agent loop workers hand them over in `extra_info["policy_turns"]`; they know the sampled
tokens. Elsewhere VeRL gives a reward function the response's text, in which a tool may have printed any tag: there only
what precedes the first tool response and what follows the last one counts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TURNS_FIELD = "policy_turns"
"""In a row's `extra_info`: the words of every assistant turn, a list of texts."""

_TOOL_RESPONSE, _TOOL_RESPONSE_END = "<tool_response>", "</tool_response>"
_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class OwnWords:
    """turns: one text for each assistant turn."""

    turns: tuple[str, ...]

    @property
    def text(self) -> str:
        """Of all turns."""
        return "\n".join(self.turns)

    @property
    def final(self) -> str:
        """Of the last turn: what follows the last tool response."""
        return self.turns[-1] if self.turns else ""


def own_words(response: str, extra_info: Mapping[str, Any] | None) -> OwnWords:
    """response: the text as VeRL decodes it, read only where the row does not bring the turns."""
    turns = (extra_info or {}).get(TURNS_FIELD)
    if turns is not None:
        return OwnWords(tuple(turns))
    before, opened, _ = response.partition(_TOOL_RESPONSE)
    _, closed, after = response.rpartition(_TOOL_RESPONSE_END)
    parts = [before, *([after] if opened and closed else [])]
    return OwnWords(tuple(_CALL.sub("", part) for part in parts))
