"""What a file is, and whether every row of it can be used: `python -m verl_cleaner.dataset check FILE…`."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verl_cleaner.dataset import reading
from verl_cleaner.dataset.schemas import Row, detect, read_rows
from verl_cleaner.report.tables import format_table
from verl_cleaner.reward.sources import Kind, load

_SHOWN = 10
_TOOL_TALK = re.compile(r"\btools?\b", re.IGNORECASE)


@dataclass(slots=True)
class Findings:
    """Of one file. examples: the first prompt of each source; suspicious: no-tool prompts that speak of tools."""

    schema: str
    counts: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    prompts: list[list[dict[str, str]]] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)
    broken: list[tuple[int, str]] = field(default_factory=list)
    suspicious: int = 0


def check(
    file: Path, sources: Path | None = None, *, tools: bool = True, tokenizer: str | None = None, show: bool = False
) -> bool:
    """Print what was found; True where every row can be used. Raises ValueError for an unusable YAML."""
    tables = load(sources)
    try:
        findings = examine(file, tables, tools=tools)
    except ValueError as error:
        print(f"{error}\nunusable")
        return False
    _print(file, findings, _lengths(findings.prompts, tokenizer, tools))
    if show:
        for source, text in findings.examples.items():
            print(f"\n--- {source}, as the policy sees it ---\n{text}")
    return not findings.broken


def examine(file: Path, sources: Any, *, tools: bool) -> Findings:
    """Raises ValueError where the file as a whole is unusable."""
    findings = Findings(detect(reading.columns(file), file).name)
    progress = tqdm(read_rows(file, sources, tools=tools), file.name, total=reading.count(file), leave=False)
    for number, row in enumerate(progress):
        if not isinstance(row, Row):
            findings.broken.append((number, str(row)))
            continue
        text = row.prompt[-1]["content"]
        findings.counts[row.data_source, row.kind] += 1
        findings.prompts.append(row.prompt)
        findings.examples.setdefault(row.data_source, text)
        findings.suspicious += not tools and bool(_TOOL_TALK.search(text))
    return findings


def _lengths(prompts: Sequence[Any], tokenizer: str | None, tools: bool) -> str:
    if not prompts:
        return "prompt lengths: no usable row"
    if tokenizer is None:
        return percentiles("prompt lengths in characters", [sum(len(m["content"]) for m in p) for p in prompts])
    from transformers import AutoTokenizer

    from verl_cleaner.dataset.lengths import prompt_lengths, tool_schemas

    lengths = prompt_lengths(AutoTokenizer.from_pretrained(tokenizer), prompts, tools=tool_schemas() if tools else None)
    return percentiles("prompt lengths in tokens, chat template and tools included", lengths)


def percentiles(title: str, values: Sequence[int]) -> str:
    ordered = sorted(values)
    shown = {name: ordered[round(share * (len(ordered) - 1))] for name, share in (("median", 0.5), ("95 %", 0.95))}
    return f"{title}: " + ", ".join(f"{name} {value:,}" for name, value in {**shown, "max": ordered[-1]}.items())


def _print(file: Path, findings: Findings, lengths: str) -> None:
    usable = len(findings.prompts)
    print(f"{file}: schema {findings.schema}, {usable + len(findings.broken):,} rows, {usable:,} usable")
    rows = [["source", "kind", "rows"]]
    rows += [[source, str(kind), f"{count:,}"] for (source, kind), count in findings.counts.most_common()]
    print(format_table(rows))
    print(lengths)
    if findings.suspicious:
        print(f"{findings.suspicious:,} prompts still speak of tools; see tool_talk in sources.yaml")
    for number, reason in findings.broken[:_SHOWN]:
        print(f"row {number}: {reason}")
    if len(findings.broken) > _SHOWN:
        print(f"… and {len(findings.broken) - _SHOWN:,} more broken rows, of which:")
        for reason, count in Counter(reason[:100] for _, reason in findings.broken).most_common(_SHOWN):
            print(f"  {count:,} × {reason}")
    print(f"{len(findings.broken):,} broken rows: unusable" if findings.broken else "usable")
