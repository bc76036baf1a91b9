"""`python -m verl_cleaner.evaluation run|report …`; see the package's text."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from verl_cleaner.evaluation import humaneval, livecodebench, report
from verl_cleaner.evaluation.programs import collect, found
from verl_cleaner.evaluation.questions import read_questions
from verl_cleaner.evaluation.runner import ARMS, PLAIN, ROLLBACK, Evaluation, EvaluationError, run
from verl_cleaner.evaluation.suites import HUMAN_EVAL, SUITES, Problem
from verl_cleaner.launch import RunFailed

BENCHMARKS = {"LiveCodeBench": livecodebench.BENCHMARK, "HumanEval": humaneval.BENCHMARK}
"""By the beginning of data_source."""
_CHOICES = {"on": (ROLLBACK,), "off": (PLAIN,), "both": ARMS}


def main(argv: list[str] | None = None) -> None:
    options = _parse(argv)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        if options.command == "run":
            evaluation = _evaluation(options)
            problems = run(evaluation)
        _report(options.out)
        if options.command == "run":
            _convert(evaluation, problems)
    except KeyboardInterrupt:
        sys.exit("\n[cleaner] stopped; the same command goes on with what is left")
    except (RunFailed, EvaluationError, ValueError) as error:
        sys.exit(f"[cleaner] error: {error}")


def _report(out: Path) -> None:
    report.write(out)
    print((out / "report.md").read_text())
    print(f"[cleaner] report: {out}/report.{{md,json,png}}")


def _convert(evaluation: Evaluation, problems: Sequence[Problem]) -> None:
    """Each benchmark's own file beside the trajectories it is made from."""
    sources = {problem.suite: problem.row.data_source for problem in problems}
    for suite, source in sources.items():
        benchmark = next((b for name, b in BENCHMARKS.items() if source.startswith(name)), None)
        for arm in evaluation.rollback if benchmark is not None else ():
            assert benchmark is not None
            out, folder = evaluation.out / arm / benchmark.file, evaluation.out / arm / "trajectories"
            questions = read_questions(suite, benchmark, limit=evaluation.limit, sources=evaluation.sources)
            codes = collect([folder], questions, suite=suite)
            benchmark.write(out, codes)
            print(f"[cleaner] {arm}: {out}, the benchmark's own file; {found(codes)}")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m verl_cleaner.evaluation", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", allow_abbrev=False, help="sample, keep the trajectories, report")
    running.add_argument("--model", required=True, help="Hugging Face folder, hub name, or what export.sh made")
    names = ", ".join([*SUITES, HUMAN_EVAL])
    running.add_argument("--suites", nargs="+", required=True, help=f"{names}, or data files")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--samples", type=_positive, default=16, help="a problem (default: %(default)s)")
    running.add_argument("--rollback", choices=_CHOICES, default="on", help="at test time (default: %(default)s)")
    running.add_argument("--retries", type=_positive, default=3, help="K of the rollback (default: %(default)s)")
    running.add_argument("--chunk", type=_positive, default=64, help="problems kept at a time (default: %(default)s)")
    running.add_argument("--limit", type=_positive, help="problems of each suite (default: all)")
    running.add_argument("--no-tools", action="store_true", help="reasoning only")
    running.add_argument("--sources", help="YAML with sources of your own")
    running.add_argument("--config-name", default="cleaner", help="of verl_cleaner.main_ppo (default: %(default)s)")
    running.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides of verl_cleaner.main_ppo")
    commands.add_parser("report", help="report again from the trajectories").add_argument("out", type=Path)
    options, rest = parser.parse_known_args(argv)
    if options.command == "run":
        options.overrides += rest
        # argparse takes what follows --suites for suites.
        options.overrides += [text for text in options.suites if "=" in text]
        options.suites = [text for text in options.suites if "=" not in text]
        rest = [text for text in options.overrides if "=" not in text or text.startswith("--")]
    if rest:
        parser.error(f"unknown argument {rest[0]!r}; expected an option above or a Hydra override key=value")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {number}")
    return number


def _evaluation(options: argparse.Namespace) -> Evaluation:
    return Evaluation(
        model=options.model,
        suites=tuple(options.suites),
        out=options.out,
        samples=options.samples,
        rollback=_CHOICES[options.rollback],
        chunk=options.chunk,
        limit=options.limit,
        retries=options.retries,
        tools=not options.no_tools,
        config=options.config_name,
        sources=options.sources,
        overrides=tuple(options.overrides),
    )


if __name__ == "__main__":
    main()
