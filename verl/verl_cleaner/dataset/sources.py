"""What a row's own `data_source` decides: how it is scored (`Kind`) and how its prompt is worded (`Template`).

One YAML holds both tables; `sources.yaml` beside this module is ours:

    templates:
      NAME:
        tools: text with {problem}        for a policy that may call tools
        no_tools: text with {problem}     for one that may not
    sources:
      math_dapo: {kind: math, template: math}        an exact name
      train-math-*: {kind: math, template: math}     a prefix, where the name ends in *

An exact name beats a prefix, a longer prefix a shorter one. A YAML of the user's own, in the same form, is laid over
ours: an entry of the same name replaces ours whole, further entries are added. Only the text {problem} is replaced; other
braces stand for themselves.

    sources = load()                       or load("mine.yaml")
    sources.find("math_dapo").kind         Kind.MATH
    sources.shape("math_dapo", "What is 1 + 1?", tools=False)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).with_name("sources.yaml")
PLACEHOLDER = "{problem}"


class Kind(StrEnum):
    """How an answer of this source is scored."""

    MATH = "math"  # the last boxed answer equals the ground truth; also science
    CHOICE = "choice"  # the last boxed answer is the ground truth's letter
    CODE = "code"  # a program passes the tests in the ground truth
    REASONING_GYM = "reasoning_gym"  # the task family's own verifier


@dataclass(frozen=True, slots=True)
class Template:
    """Prompt texts, each with one {problem}."""

    tools: str
    no_tools: str

    def shape(self, problem: str, *, tools: bool) -> str:
        return (self.tools if tools else self.no_tools).replace(PLACEHOLDER, problem)


@dataclass(frozen=True, slots=True)
class Source:
    """An entry of the table. pattern: its name there; template: a key of `Sources.templates`."""

    pattern: str
    kind: Kind
    template: str


@dataclass(frozen=True, slots=True)
class Sources:
    """The tables of one or two files."""

    entries: Mapping[str, Source]
    templates: Mapping[str, Template]

    def find(self, data_source: str, *, where: str = "") -> Source:
        """The entry for a row's `data_source`. where: file and row, for the message.

        Raises:
            ValueError: no entry matches.
        """
        if data_source in self.entries:
            return self.entries[data_source]
        prefixes = [p for p in self.entries if p.endswith("*") and str(data_source).startswith(p[:-1])]
        if not prefixes:
            raise ValueError(
                f"{where + ': ' if where else ''}data_source {data_source!r} is unknown, expected one of "
                f"{', '.join(sorted(self.entries))}; add it to a YAML of your own (data.prompt_sources, --sources)"
            )
        return self.entries[max(prefixes, key=len)]

    def kind(self, data_source: str, *, where: str = "") -> Kind:
        """Raises ValueError for an unknown source."""
        return self.find(data_source, where=where).kind

    def shape(self, data_source: str, problem: str, *, tools: bool, where: str = "") -> str:
        """The prompt for a bare problem. Raises ValueError for an unknown source."""
        return self.templates[self.find(data_source, where=where).template].shape(problem, tools=tools)


@cache
def load(path: str | Path | None = None) -> Sources:
    """Our tables, with those of the file at `path` laid over them.

    Raises:
        ValueError: names the file, the entry and what is wrong with it.
    """
    templates, entries = _read(DEFAULT)
    if path is not None:
        own_templates, own_entries = _read(Path(path))
        templates, entries = templates | own_templates, entries | own_entries
    for source in entries.values():
        if source.template not in templates:
            raise ValueError(
                f"{path or DEFAULT}: sources.{source.pattern}.template {source.template!r} is unknown, expected one of "
                f"{', '.join(sorted(templates))}"
            )
    return Sources(entries, templates)


def _read(path: Path) -> tuple[dict[str, Template], dict[str, Source]]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    sections = _fields(document, {"templates", "sources"}, str(path), optional=True)
    templates = {
        name: _template(_fields(entry, {"tools", "no_tools"}, f"{path}: templates.{name}"), f"{path}: templates.{name}")
        for name, entry in _mapping(sections.get("templates"), f"{path}: templates").items()
    }
    entries = {
        name: _source(name, _fields(entry, {"kind", "template"}, f"{path}: sources.{name}"), f"{path}: sources.{name}")
        for name, entry in _mapping(sections.get("sources"), f"{path}: sources").items()
    }
    return templates, entries


def _template(entry: dict[str, Any], where: str) -> Template:
    for variant, text in entry.items():
        if not isinstance(text, str) or text.count(PLACEHOLDER) != 1:
            raise ValueError(f"{where}.{variant} must be a text with {PLACEHOLDER} once, got {text!r}")
    return Template(**entry)


def _source(name: str, entry: dict[str, Any], where: str) -> Source:
    if entry["kind"] not in list(Kind):
        raise ValueError(f"{where}.kind must be one of {', '.join(Kind)}, got {entry['kind']!r}")
    return Source(name, Kind(entry["kind"]), str(entry["template"]))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise ValueError(f"{where} must be a mapping of names, got {value!r}")
    return {str(name): entry for name, entry in (value or {}).items()}


def _fields(value: Any, names: set[str], where: str, *, optional: bool = False) -> dict[str, Any]:
    """`value` as a mapping with exactly these keys."""
    got = _mapping(value, where)
    if set(got) - names or (not optional and names - set(got)):
        raise ValueError(
            f"{where} must have the keys {', '.join(sorted(names))}, got {', '.join(sorted(got)) or 'none'}"
        )
    return got
