"""What a row's own `data_source` decides: how it is scored (`Kind`) and how its prompt is worded (`Template`).

One YAML holds both tables; `sources.yaml` beside this module is ours:

    templates:
      NAME:
        tools: text with {problem}        for a policy that may call tools
        no_tools: text with {problem}     for one that may not
    sources:
      math_dapo: {kind: math, template: math}        an exact name
      train-math-*: {kind: math, template: math}     a prefix, where the name ends in *
    tool_talk: [regular expression, …]               what no_tools removes from a problem's own text

A source may also have a category for tables; without one it is the kind. An exact name beats a prefix, a longer prefix
a shorter one. A YAML of the user's own, in the same form, is laid over ours: an entry of the same name replaces ours
whole, further entries are added, a list tool_talk replaces ours. Only the text {problem} is replaced; other braces
stand for themselves.

    sources = load()                       or load("mine.yaml")
    sources.find("math_dapo").kind         Kind.MATH
    sources.shape("math_dapo", "What is 1 + 1?", tools=False)
"""

import re
from collections.abc import Mapping, Set
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
    """An entry of the table. pattern: its name there; template: a key of `Sources.templates`; category: for tables."""

    pattern: str
    kind: Kind
    template: str
    category: str


@dataclass(frozen=True, slots=True)
class Sources:
    """The tables of one or two files."""

    entries: Mapping[str, Source]
    templates: Mapping[str, Template]
    tool_talk: tuple[re.Pattern[str], ...]

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
        """The prompt for a row's own text. Raises ValueError for an unknown source."""
        template = self.templates[self.find(data_source, where=where).template]
        if not tools:
            for pattern in self.tool_talk:
                problem = pattern.sub("", problem)
        return template.shape(problem, tools=tools)


@cache
def load(path: str | Path | None = None) -> Sources:
    """Our tables, with those of the file at `path` laid over them.

    Raises:
        ValueError: names the file, the entry and what is wrong with it.
    """
    tables = _read(DEFAULT)
    if path is not None:
        own = _read(Path(path))
        tables = Sources(
            {**tables.entries, **own.entries}, {**tables.templates, **own.templates}, own.tool_talk or tables.tool_talk
        )
    for source in tables.entries.values():
        if source.template not in tables.templates:
            raise ValueError(
                f"{path or DEFAULT}: sources.{source.pattern}.template {source.template!r} is unknown, expected one of "
                f"{', '.join(sorted(tables.templates))}"
            )
    return tables


def _read(path: Path) -> Sources:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    sections = _fields(document, str(path), optional={"templates", "sources", "tool_talk"})
    templates = _mapping(sections.get("templates"), f"{path}: templates")
    entries = _mapping(sections.get("sources"), f"{path}: sources")
    return Sources(
        {name: _source(name, entry, f"{path}: sources.{name}") for name, entry in entries.items()},
        {name: _template(entry, f"{path}: templates.{name}") for name, entry in templates.items()},
        _patterns(sections.get("tool_talk"), f"{path}: tool_talk"),
    )


def _template(entry: Any, where: str) -> Template:
    fields = _fields(entry, where, required={"tools", "no_tools"})
    for variant, text in fields.items():
        if not isinstance(text, str) or text.count(PLACEHOLDER) != 1:
            raise ValueError(f"{where}.{variant} must be a text with {PLACEHOLDER} once, got {text!r}")
    return Template(**fields)


def _source(name: str, entry: Any, where: str) -> Source:
    fields = _fields(entry, where, required={"kind", "template"}, optional={"category"})
    if fields["kind"] not in list(Kind):
        raise ValueError(f"{where}.kind must be one of {', '.join(Kind)}, got {fields['kind']!r}")
    kind = Kind(fields["kind"])
    return Source(name, kind, str(fields["template"]), str(fields.get("category", kind)))


def _patterns(value: Any, where: str) -> tuple[re.Pattern[str], ...]:
    if not isinstance(value or [], list):
        raise ValueError(f"{where} must be a list of regular expressions, got {value!r}")
    patterns = []
    for pattern in value or []:
        try:
            patterns.append(re.compile(str(pattern)))
        except re.error as error:
            raise ValueError(f"{where}: {pattern!r} is no regular expression: {error}") from error
    return tuple(patterns)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise ValueError(f"{where} must be a mapping of names, got {value!r}")
    return {str(name): entry for name, entry in (value or {}).items()}


def _fields(
    value: Any, where: str, *, required: Set[str] = frozenset(), optional: Set[str] = frozenset()
) -> dict[str, Any]:
    """`value` as a mapping with these keys and no others."""
    got = _mapping(value, where)
    if set(got) - required - optional or required - set(got):
        also = f" and may have {', '.join(sorted(optional))}" if optional else ""
        needs = f"must have {', '.join(sorted(required))}" if required else "needs no key"
        raise ValueError(f"{where} {needs}{also}, got {', '.join(sorted(got)) or 'none'}")
    return got
