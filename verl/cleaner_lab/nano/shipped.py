"""The cold start that comes with the package, so that the quickstart begins with RL.

shipped/model/, shipped/data/, shipped/cold_start.json   what `cold_start` makes with its default settings
shipped/provenance.json                                  how: the command, versions, SHA-256 of every file

    python -m cleaner_lab.nano.shipped check   train it again, in a minute or two, and compare
    python -m cleaner_lab.nano.shipped make    train it again and replace it, after its settings or code have changed
"""

import argparse
import hashlib
import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from cleaner_lab.nano.cold_start import MARKER, cold_start
from cleaner_lab.nano.settings import Settings

FOLDER = Path(__file__).with_name("shipped")
PROVENANCE = "provenance.json"
COMMAND = "python -m cleaner_lab.nano.shipped"
LOSS_TOLERANCE = 0.05
"""Of the loss of each tenth of the training, in nats a token: other processors round otherwise."""
_VERSIONS = ("torch", "transformers", "tokenizers", "reasoning-gym")


def find(settings: Settings) -> Path | None:
    """The folder, where it was made with these settings and with the code as it is now."""
    marker = FOLDER / MARKER
    made = marker.is_file() and json.loads(marker.read_text())["fingerprint"] == settings.fingerprint()
    return FOLDER if made else None


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the provenance, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != PROVENANCE)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def provenance(folder: Path) -> dict[str, Any]:
    from importlib.metadata import version

    marker = json.loads((folder / MARKER).read_text())
    return {
        "command": f"{COMMAND} make",
        "fingerprint": marker["fingerprint"],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _VERSIONS},
        "sha256": sums(folder),
    }


def make(folder: Path, settings: Settings) -> None:
    """Replaces the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    cold_start(folder, settings)
    (folder / PROVENANCE).write_text(json.dumps(provenance(folder), indent=1) + "\n")


def differences(folder: Path, again: Path) -> list[str]:
    """What is not as in `again`, a cold start that was made anew: a line each. Of the weights the losses have to be
    alike, of the data the rows have to be equal, of all other files the bytes."""
    ours, theirs = sums(folder), sums(again)
    found = [f"{path}: only once there" for path in sorted(ours.keys() ^ theirs.keys())]
    for path in sorted(ours.keys() & theirs.keys()):
        equal = ours[path] == theirs[path]
        if path.endswith(".parquet"):
            equal = pd.read_parquet(folder / path).equals(pd.read_parquet(again / path))
        if not equal and not path.endswith((".safetensors", MARKER)):
            found.append(f"{path}: differs")
    one, other = (json.loads((start / MARKER).read_text()) for start in (folder, again))
    if one["settings"] != other["settings"] or one["fingerprint"] != other["fingerprint"]:
        found.append(f"{MARKER}: other settings or code")
    losses = list(zip(one["losses"], other["losses"], strict=False))
    if len(one["losses"]) != len(other["losses"]) or any(abs(a - b) > LOSS_TOLERANCE for a, b in losses):
        found.append(f"{MARKER}: losses {one['losses']}, made again {other['losses']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("check", "make"))
    what = parser.parse_args().what
    if what == "make":
        make(FOLDER, Settings())
        print(f"saved to {FOLDER}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary) / "again"
        cold_start(again, Settings())
        found = differences(FOLDER, again)
        equal = sums(FOLDER / "model") == sums(again / "model")
    for line in found:
        print(f"{FOLDER / line}", file=sys.stderr)
    if found:
        sys.exit(f"the cold start that is shipped is not what is made now; make it again: {COMMAND} make")
    print("equal, bit for bit" if equal else f"equal but for rounding: losses within {LOSS_TOLERANCE}")


if __name__ == "__main__":
    main()
