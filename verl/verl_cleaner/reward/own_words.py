"""What a reward scores: the policy's own words, turn by turn, without its tool calls and without what tools printed.

In training and evaluation the agent loop workers hand them over in `extra_info["policy_turns"]`: the tokens that the
policy sampled (mask 1) without its calls. Elsewhere VeRL gives a reward function the response's text, in which a tool
may have printed any tag; there only what precedes the first tool response and what follows the last one counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl_cleaner.formats import FORMATS
from verl_cleaner.formats.own_turns import TURNS_FIELD, of_text

DEFAULT_FORMAT = "hermes"
"""VeRL does not tell a reward function the tool format."""


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


def own_words(response: str, extra_info: Mapping[str, Any] | None, *, tool_format: str = DEFAULT_FORMAT) -> OwnWords:
    """response: the text as VeRL decodes it, read only where the row does not bring the turns.

    Raises:
        ValueError: the tool format is not known.
    """
    turns = (extra_info or {}).get(TURNS_FIELD)
    if turns is not None:
        return OwnWords(tuple(turns))
    if tool_format not in FORMATS:
        raise ValueError(f"tool_format must be one of {', '.join(FORMATS)}, got {tool_format!r}")
    return OwnWords(tuple(of_text(response, FORMATS[tool_format])))
