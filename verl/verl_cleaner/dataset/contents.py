"""What each schema's columns mean: from a raw row to its messages, its ground truth and the rest."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verl_cleaner.dataset.reading import Broken
from verl_cleaner.reward.sources import Kind
from verl_cleaner.stored import allow_long_integers, sequence
from verl_cleaner.stored import value as stored_value


@dataclass(frozen=True, slots=True)
class Content:
    """What is read from a raw row, whatever its schema."""

    messages: list[dict[str, str]]
    ground_truth: str
    extra_info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Schema:
    """columns: what a file must have. kinds: of its sources."""

    name: str
    columns: tuple[str, ...]
    kinds: frozenset[Kind]
    read: Callable[[dict[str, Any]], Content]


def _verl(raw: dict[str, Any]) -> Content:
    return _rewarded(raw, _messages(raw["prompt"]))


def _lcb(raw: dict[str, Any]) -> Content:
    return _rewarded(raw, _question(raw["problem"]))


def _rewarded(raw: dict[str, Any], messages: list[dict[str, str]]) -> Content:
    truth = _mapping(raw["reward_model"], "reward_model").get("ground_truth")
    if truth is None:
        raise Broken("reward_model.ground_truth is missing")
    return Content(messages, _text(truth), _mapping(raw.get("extra_info"), "extra_info"))


def _human_eval(raw: dict[str, Any]) -> Content:
    """Imports and helpers before the function are given to the program; it need not repeat them."""
    prompt, entry = str(raw["prompt"]), str(raw["entry_point"])
    head, separator, _ = prompt.rpartition(f"def {entry}(")
    if not separator:
        raise Broken(f"the prompt does not define entry_point {entry!r}")
    tests = {"entry_point": entry, "import_prefix": head, "test_code": str(raw["test"])}
    return Content(_question(f"Complete this function:\n```python\n{prompt.strip()}\n```"), json.dumps(tests), {})


def _plain(problem: str, answer: str) -> Callable[[dict[str, Any]], Content]:
    return lambda raw: Content(_question(raw[problem]), _text(raw[answer]), {})


_ANSWERS = frozenset({Kind.MATH, Kind.CHOICE})
SCHEMAS = (
    Schema("verl", ("data_source", "prompt", "reward_model"), frozenset(Kind), _verl),
    Schema("humaneval", ("task_id", "prompt", "entry_point", "test"), frozenset({Kind.CODE}), _human_eval),
    Schema("lcb", ("problem", "question_id", "reward_model", "data_source"), frozenset({Kind.CODE}), _lcb),
    Schema("gpqa", ("problem", "solution", "domain", "data_source"), _ANSWERS, _plain("problem", "solution")),
    Schema("aime2024", ("Problem", "Answer", "data_source"), _ANSWERS, _plain("Problem", "Answer")),
    Schema("aime2025", ("problem", "answer", "data_source"), _ANSWERS, _plain("problem", "answer")),
)
"""In the order in which they are tried."""


def _question(problem: Any) -> list[dict[str, str]]:
    return _messages([{"role": "user", "content": problem}])


def _messages(value: Any) -> list[dict[str, str]]:
    value = sequence(value)
    if isinstance(value, str):
        raise Broken(
            f"prompt is plain text, expected a list of messages, got {value[:60]!r}; write it as "
            '[{"role": "user", "content": prompt}] (dataset/README.md, "Files of other trainers")'
        )
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise Broken(f"prompt must be a list of messages, got {str(value)[:60]!r}")
    messages = [{"role": message.get("role"), "content": message.get("content")} for message in value]
    for message in messages:
        if not all(isinstance(text, str) for text in message.values()):
            raise Broken(f"a message of the prompt must have the texts role and content, got {str(message)[:60]}")
    if not any(message["role"] == "user" and message["content"].strip() for message in messages):
        raise Broken("the prompt has no text of the user")
    return messages


def _mapping(value: Any, column: str) -> dict[str, Any]:
    """A struct, or the text of an object in JSON or Python."""
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = stored_value(value)
        except ValueError as error:
            raise Broken(f"{column} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Broken(f"{column} must be an object, got {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    """A ground truth; whole numbers are kept whole also where pandas made floats of them."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    allow_long_integers()
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
