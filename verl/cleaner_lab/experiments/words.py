"""The words of a command beside its options: one YAML file, and Hydra overrides."""

import argparse
from pathlib import Path


def parse(parser: argparse.ArgumentParser, default: Path, *, called: str) -> tuple[argparse.Namespace, Path, list[str]]:
    """(options, file, overrides). default: the file where none is given. called: what messages call several files.

    Ends the process with a message if there are more files than one.
    """
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    files = [word for word in options.words if "=" not in word]
    if len(files) > 1:
        parser.error(f"got the {called} {' and '.join(files)}, expected one; everything else is an option or key=value")
    return options, Path(files[0]) if files else default, [word for word in options.words if "=" in word]
