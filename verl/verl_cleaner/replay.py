"""Show recorded rollbacks: `python -m verl_cleaner.replay FILE [--row N] [--kind KIND] [--result RESULT]`.

Shows for each retry the error, and the failed and the new call as a coloured diff. SAAR decides again from the record;
the command fails if the decision differs from the recorded one.
"""

import argparse
import difflib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_cleaner.records.rollbacks import read
from verl_cleaner.saar.similarity import similarity

_COLORS = {"-": "\033[31m", "+": "\033[32m", "!": "\033[33m", "#": "\033[1m"}
_END = "\033[0m"


def decision_problem(row: dict[str, Any]) -> str | None:
    """How SAAR's decision differs from the record; None if it agrees, or if there is nothing to compare."""
    if row["similarity"] is None:
        return None
    if row["similarity_on"] == "arguments":
        ratio = similarity(row["failed_call"], row["new_call"])
        if abs(ratio - row["similarity"]) > 1e-3:
            return f"similarity is {ratio:.4f}, recorded {row['similarity']:.4f}"
    keeps_reasoning = row["similarity"] >= row["threshold"] and row["threshold"] < 1
    # The reverse is possible: a turn that cannot be split, or old reasoning + new call that does not parse, is replaced
    # as a whole.
    if row["strategy"] == "tool_call_only" and not keeps_reasoning:
        return f"strategy tool_call_only at similarity {row['similarity']} below threshold {row['threshold']}"
    return None


def show(row: dict[str, Any]) -> Iterator[str]:
    """Lines of text. The first character is the kind: # heading, - failed, + new, ! error, blank unchanged."""
    yield (
        f"# step {row['step']} · {row['uid']} rollout {row['rollout']} · turn {row['turn']} retry {row['retry']} · "
        f"{', '.join(row['kinds'])} -> {row['result']}"
    )
    facts = [f"{row['generated']} tokens generated, {row['discarded']} discarded", f"{row['seconds']:.2f} s"]
    if row["similarity"] is not None:
        facts.insert(0, f"similarity {row['similarity']:.2f} (threshold {row['threshold']:g})")
    if row["strategy"]:
        facts.insert(1, row["strategy"])
    if row["gap"] is not None:
        facts.append(f"gap {row['gap']:+.2f} nats")
    yield "  " + " · ".join(facts)
    yield from (f"! {line}" for line in row["error"].splitlines())
    yield from (f"! as written: {line}" for line in row["malformed"].splitlines())
    old, new = row["failed_call"].splitlines(), row["new_call"].splitlines()
    yield from (line for line in difflib.ndiff(old, new) if line[0] != "?")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m verl_cleaner.replay", description=__doc__.partition(":")[0])
    parser.add_argument("file", type=Path, help="a dump of rollbacks, .parquet, or the same rows as .jsonl")
    parser.add_argument("--row", type=int, help="only this row, from 0")
    parser.add_argument("--kind", help="only turns that failed with this kind")
    parser.add_argument("--result", help="only retries with this result, e.g. overwritten")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    options = parser.parse_args(argv)
    if not options.file.is_file():
        parser.error(f"{options.file} does not exist; training writes it with trainer.rollout_data_dir=FOLDER")
    table = read(options.file)
    if options.row is not None:
        if not 0 <= options.row < len(table):
            parser.error(f"--row must be in [0, {len(table) - 1}], got {options.row}")
        table = [table[options.row]]
    colored = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
    problems = 0
    for row in table:
        if options.kind not in (None, *row["kinds"]) or options.result not in (None, row["result"]):
            continue
        problem = decision_problem(row)
        problems += problem is not None
        for line in [*show(row), *([f"! replay differs: {problem}"] if problem else []), ""]:
            color = _COLORS.get(line[:1]) if colored else None
            print(f"{color}{line}{_END}" if color else line)
    return 1 if problems else 0


if __name__ == "__main__":
    # Like other filters: `| head` ends it quietly.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
