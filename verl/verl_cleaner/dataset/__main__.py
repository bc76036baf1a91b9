"""`python -m verl_cleaner.dataset check FILE… [--sources YAML] [--no_tools] [--tokenizer MODEL] [--show]`."""

import argparse
import sys
from pathlib import Path

from verl_cleaner.dataset.check import check


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m verl_cleaner.dataset")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check", help="what files are, and whether every row of them can be used")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--sources", type=Path, help="YAML laid over ours: sources and prompt templates")
    command.add_argument("--no_tools", action="store_true", help="word prompts for a policy without tools")
    command.add_argument("--tokenizer", help="folder or hub name of a model: prompt lengths in its tokens")
    command.add_argument("--show", action="store_true", help="print the first prompt of every source")
    options = parser.parse_args()
    try:
        fine = [
            check(file, options.sources, tools=not options.no_tools, tokenizer=options.tokenizer, show=options.show)
            for file in options.files
        ]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
