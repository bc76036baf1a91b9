"""Run a matrix: `recipe/cleaner/matrix.sh` behind its environment and judge.

Several cells work side by side on each GPU. None stops the others; what ran is kept, and the same command goes on with
the rest. The table is written after every cell, and keeps the rows of cells that are not chosen this time.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cleaner_lab.experiments import words
from cleaner_lab.experiments.grid import ColdStart, GridError, prepare_cold_start
from cleaner_lab.matrix.cells import Cell, facts, read_matrix
from cleaner_lab.matrix.run import Run, command
from cleaner_lab.matrix.table import Outcome, Result, read, table, write

_MATRIX = Path("recipe/cleaner/matrix.yaml")
_POLL_SECONDS = 0.5
_CPU = ""
"""The name of what cells without a GPU share."""
_PLACES = (Path("MODEL"), Path("TRAIN"), Path("VAL"))
"""Of the cold start, where commands are only printed."""


def main() -> None:
    options, overrides = _parse()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        known = read_matrix(options.matrix, steps=options.steps, more=tuple(overrides))
        cells = _chosen(known, options)
        if os.environ.get("DRY_RUN") == "1":
            for cell in cells:
                print(f"# {cell.full_name}\n{shlex.join(command(cell, ColdStart(*_PLACES), Path('OUT'), 0))}")
            return
        results = Matrix(cells, options, order=[cell.full_name for cell in known]).run()
    except GridError as error:
        sys.exit(f"[cleaner] error: {error}")
    print(f"\n{table(results)}\n\n[cleaner] table and figures: {options.out}/table.md, {options.out}/results.jsonl")
    if left := [result.cell for result in results if result.outcome in (Outcome.FAILED, Outcome.NOT_BEGUN)]:
        sys.exit(
            f"[cleaner] {len(left)} cells failed or did not begin: {', '.join(left)}; the same command tries again"
        )


class Matrix:
    """The chosen cells of a file, worked through side by side. Those that are not chosen keep what came of them.

    order: the names of all cells of the file.
    """

    def __init__(self, cells: Sequence[Cell], options: argparse.Namespace, *, order: Sequence[str]) -> None:
        self.options, self.out, self.order = options, options.out, order
        self.out.mkdir(parents=True, exist_ok=True)
        self.pythons = dict(pair.split("=", 1) for pair in options.python)
        self.before = read(self.out)
        self.results: dict[str, Result] = {}
        self.waiting: list[Cell] = []
        for cell in cells:
            old = self.before.get(cell.full_name)
            absent = self._absent(cell)
            if old and old.outcome is Outcome.RAN and old.fingerprint == cell.fingerprint():
                self.results[cell.full_name] = old
                continue
            outcome = Outcome.NOT_HERE if absent else Outcome.NOT_BEGUN
            self.results[cell.full_name] = Result(cell.full_name, cell.fingerprint(), facts(cell), outcome, absent)
            if not absent:
                self.waiting.append(cell)
        # Those of several GPUs begin while all are free: later, cells of one GPU are always quicker to take a place.
        self.waiting.sort(key=lambda cell: -cell.gpus)
        self.starts = {
            cell.platform.name: prepare_cold_start(cell.platform.cold_start, Path("outputs/nano"))
            for cell in self.waiting
        }

    def _absent(self, cell: Cell) -> str:
        if cell.gpus > len(gpus()):
            return "no GPU" if not gpus() else f"{len(gpus())} GPU"
        python = self.pythons.get(cell.platform.name, sys.executable)
        missing = [package for package in cell.needs if not _installed(python, package)]
        return f"not installed: {', '.join(missing)}" if missing else ""

    def run(self) -> list[Result]:
        until = time.monotonic() + 60 * self.options.minutes
        free = dict.fromkeys([_CPU, *gpus()], self.options.parallel)
        working: list[Run] = []
        print(f"[cleaner] {len(self.waiting)} cells to run, {len(self.results) - len(self.waiting)} others; {self.out}")
        try:
            while self.waiting or working:
                self._begin(working, free, over=time.monotonic() > until)
                for run in [run for run in working if run.ended(until)]:
                    working.remove(run)
                    run.close()
                    for place in run.places:
                        free[place] += 1
                    print(_line(run.result))
                    self._write()
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            print("\n[cleaner] stopped")
        finally:
            for run in working:
                run.close()
        self._write()
        return list(self.results.values())

    def _write(self) -> None:
        found = self.before | self.results
        write(self.out, [found[name] for name in self.order if name in found])

    def _begin(self, working: list[Run], free: dict[str, int], *, over: bool) -> None:
        if over:
            self.waiting.clear()
        for cell in list(self.waiting):
            chosen = places(cell, free)
            if chosen:
                self.waiting.remove(cell)
                for place in chosen:
                    free[place] -= 1
                python = self.pythons.get(cell.platform.name, sys.executable)
                folder = self.out / cell.full_name
                result = self.results[cell.full_name]
                working.append(Run(cell, result, self.starts[cell.platform.name], folder, chosen, python))


def places(cell: Cell, free: dict[str, int]) -> list[str]:
    """Where the cell runs: as many GPUs as it needs, the least busy first. Empty where it has to wait."""
    if not cell.gpus:
        return [_CPU] if free[_CPU] else []
    usable = sorted((name for name in free if name != _CPU and free[name]), key=lambda name: -free[name])
    return usable[: cell.gpus] if len(usable) >= cell.gpus else []


def _line(result: Result) -> str:
    taken = f"{result.seconds:.0f} s"
    if result.outcome is Outcome.RAN:
        return f"  {result.cell:<32} ran {int(result.figures['steps'])} steps, {taken}"
    return f"  {result.cell:<32} {result.outcome}, {taken}: {result.message}"


@cache
def gpus() -> tuple[str, ...]:
    """As CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        tuple(str(n) for n in range(torch.cuda.device_count()))
        if named is None
        else tuple(filter(None, named.split(",")))
    )


@cache
def _installed(python: str, package: str) -> bool:
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({package.split('.')[0]!r}) is None)"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def _chosen(cells: list[Cell], options: argparse.Namespace) -> list[Cell]:
    """Those of the command; on a host with GPUs without a word about platforms: those of its GPUs."""
    names = options.cells.split(",") if options.cells else []
    platforms = options.platforms.split(",") if options.platforms else []
    known = {cell.full_name for cell in cells} | {cell.name for cell in cells}
    for name in names:
        if name not in known:
            raise GridError(f"--cells: unknown cell {name!r}, expected some of {', '.join(sorted(known))}")
    if unknown := set(platforms) - {cell.platform.name for cell in cells}:
        raise GridError(f"--platforms: unknown {sorted(unknown)}, expected {sorted({c.platform.name for c in cells})}")
    return [
        cell
        for cell in cells
        if (not names or cell.name in names or cell.full_name in names)
        and (cell.platform.name in platforms if platforms else not gpus() or cell.platform.device == "gpu")
    ]


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="matrix.sh", allow_abbrev=False, usage="%(prog)s [MATRIX] [options] [key=value ...]", description=__doc__
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/matrix"), help="default: %(default)s")
    parser.add_argument("--platforms", default="", help="only these, separated by commas")
    parser.add_argument("--cells", default="", help="only these, separated by commas: NAME or PLATFORM/NAME")
    parser.add_argument("--steps", type=int, help="RL steps of a cell, instead of the file's")
    parser.add_argument("--parallel", type=int, default=1, help="cells side by side on a GPU (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1e6, help="end after this time, with what there is")
    parser.add_argument(
        "--python", action="append", default=[], metavar="PLATFORM=PATH", help="interpreter of a platform's cells"
    )
    parser.epilog = f"MATRIX: a YAML file (default: {_MATRIX}); key=value: Hydra overrides of every cell"
    options, file, overrides = words.parse(parser, _MATRIX, called="files")
    options.matrix = file
    return options, overrides


if __name__ == "__main__":
    main()
