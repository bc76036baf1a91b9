"""The programs in a dump of trajectories, by the benchmark's question, and their scores through the judge.

A dump is Parquet as an evaluation writes it (`records.trajectories`), or JSON Lines such as VeRL's validation dump,
with input, output and gts. A row belongs to the question that it names (question_id, or problem). Else it belongs to
the one whose tests it has (gts), else to the one whose text its input holds. Anything but exactly one is an error.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from code_judge.client import JudgeOutage, judge_url
from code_judge.client import check as check_judge
from verl_cleaner import stored
from verl_cleaner.evaluation.questions import Benchmark, Codes, Questions, read_questions
from verl_cleaner.evaluation.statistics import pass_at_k, powers
from verl_cleaner.formats import FORMATS
from verl_cleaner.formats.own_turns import TURNS_FIELD
from verl_cleaner.records.trajectories import read as read_trajectories
from verl_cleaner.report.intervals import estimate
from verl_cleaner.reward.answers import last_python_block
from verl_cleaner.reward.cases import read_cases
from verl_cleaner.reward.code import score_code
from verl_cleaner.reward.judging import judge_at
from verl_cleaner.reward.own_words import DEFAULT_FORMAT, own_words
from verl_cleaner.saar.outcome import InfrastructureError

_SHOWN = 5
"""Questions that are named."""


def collect(
    dumps: Iterable[Path], questions: Questions, *, suite: str | None = None, tool_format: str = DEFAULT_FORMAT
) -> Codes:
    """The programs of a dump, as many for every question.

    suite: only of this one, where the lines name theirs. tool_format: of responses without the policy's turns.

    Raises:
        ValueError: a line that cannot be matched, or a question with fewer samples than another, or none.
    """
    found: dict[str, list[tuple[int, str]]] = {name: [] for name in questions.problems}
    for entry, where in _entries(dumps):
        if suite is not None and entry.get("suite", suite) != suite:
            continue
        name = questions.of(entry, where)
        if name is not None:
            samples = found[name]
            final = own_words(str(entry["output"]), entry, tool_format=tool_format).final
            samples.append((int(entry.get("sample", len(samples))), last_python_block(final) or ""))
    numbers = {name: len(samples) for name, samples in found.items()}
    most = max(numbers.values())
    short = [name for name, number in numbers.items() if number < most or number == 0]
    if short:
        raise ValueError(
            f"{len(short)} of {len(numbers)} questions have fewer than {max(most, 1)} samples, e.g. {short[0]} "
            f"with {numbers[short[0]]}; the dump is not complete, or of another slice of the benchmark"
        )
    return {name: [code for _, code in sorted(samples, key=lambda s: s[0])] for name, samples in found.items()}


def found(codes: Codes) -> str:
    """How many programs there are, and in how many responses none was found."""
    missing = {name: samples.count("") for name, samples in codes.items() if "" in samples}
    text = f"{len(codes)} questions, {sum(map(len, codes.values()))} responses"
    if not missing:
        return f"{text}, a program in each"
    worst = sorted(missing, key=lambda name: (-missing[name], name))[:_SHOWN]
    named = ", ".join(f"{name} ({missing[name]} of {len(codes[name])})" for name in worst)
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return f"{text}, no program found in {sum(missing.values())} of them: {named}{more}"


def _entries(dumps: Iterable[Path]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each row with input and output, and where it stands."""
    for dump in dumps:
        files = [*sorted(dump.glob("*.jsonl")), *sorted(dump.glob("*.parquet"))] if dump.is_dir() else [dump]
        if not files or not files[0].is_file():
            raise ValueError(f"{dump} holds no trajectories; expected .jsonl or .parquet files, or a folder of them")
        for path in files:
            yield from _of_evaluation(path) if path.suffix == ".parquet" else _of_lines(path)


def _of_evaluation(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for number, row in enumerate(read_trajectories(path), 1):
        entry = {
            "suite": row.suite,
            "problem": row.problem,
            "data_source": row.data_source,
            "sample": row.rollout,
            "input": row.prompt_text,
            "output": row.response_text,
            TURNS_FIELD: row.policy_turns,
        }
        if row.response_text is None:
            raise ValueError(f"{path}, row {number} has no response_text; expected the trajectories of an evaluation")
        yield entry, f"{path}, row {number}"


def _of_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    stored.allow_long_integers()
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where} is not JSON: {error}") from None
            if not isinstance(entry, dict) or "output" not in entry:
                raise ValueError(f"{where} must be an object with output, got {line[:80]!r}")
            yield entry, where


def score(codes: Codes, questions: Questions, *, url: str, say: Callable[[str], None] = print) -> dict[str, list[bool]]:
    """Whether each program passes all its tests. Raises InfrastructureError: the judge fails, not the programs."""

    async def all_of_them() -> dict[str, list[bool]]:
        judge, shown, done = judge_at(url), time.monotonic(), 0

        async def one(name: str, code: str) -> bool:
            nonlocal shown, done
            async with judge.programs:
                cases = read_cases(questions.problems[name].row.ground_truth, where=name)
                result = await score_code(code or None, cases, judge=judge, early_stop=True)
            done += 1
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                say(f"[cleaner] {done} of {sum(map(len, codes.values()))} programs scored")
            return result.acc == 1.0

        try:
            every = (one(name, code) for name, samples in codes.items() for code in samples)
            results = iter(await asyncio.gather(*every))
            return {name: [next(results) for _ in samples] for name, samples in codes.items()}
        finally:
            await judge.close()

    return asyncio.run(all_of_them())


def show(passed: Mapping[str, Sequence[bool]]) -> str:
    """The benchmark's number, as text."""
    samples = min(map(len, passed.values()))
    lines = [f"{len(passed)} questions × {samples} samples, percent with 95 % intervals over the questions"]
    for k in powers(samples):
        values = [pass_at_k(sum(results), len(results), k) for results in passed.values()]
        lines.append(f"pass@{k}  {estimate(values)}  ({sum(values):.2f} of {len(passed)})")
    return "\n".join(lines)


def main(argv: list[str] | None, benchmark: Benchmark) -> None:
    """A benchmark's command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m verl_cleaner.evaluation.{benchmark.name}",
        description="Convert trajectories to the benchmark's own file, and score them through the judge.",
    )
    parser.add_argument(
        "dump",
        nargs="+",
        type=Path,
        help="trajectories: .parquet of an evaluation, .jsonl of VeRL, or folders",
    )
    parser.add_argument("--out", type=Path, required=True, help="the benchmark's file")
    parser.add_argument("--dataset", default=benchmark.name, help="the questions: the suite or a file of that schema")
    parser.add_argument("--sources", help="YAML with sources of your own")
    parser.add_argument("--tool-format", default=DEFAULT_FORMAT, choices=FORMATS, help="of VeRL's dumps, text only")
    parser.add_argument("--score", action="store_true", help="run the programs, too; needs a judge")
    parser.add_argument("--judge-url", default=judge_url(), help="(default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        if options.score:
            # A wrong address costs seconds here, and the deadline of a program, minutes, later.
            check_judge(options.judge_url)
        questions = read_questions(options.dataset, benchmark, sources=options.sources)
        codes = collect(options.dump, questions, tool_format=options.tool_format)
        benchmark.write(options.out, codes)
        print(f"[cleaner] {options.out}: {found(codes)}; the benchmark's own evaluation:")
        print(f"  {benchmark.official.replace('FILE', str(options.out))}")
        if options.score:
            passed = score(codes, questions, url=options.judge_url)
            options.out.with_suffix(".scores.json").write_text(json.dumps(passed) + "\n")
            print(show(passed))
    except (ValueError, InfrastructureError, JudgeOutage) as error:
        sys.exit(f"[cleaner] error: {error}")
