"""Trajectories in the terminal: `python -m verl_cleaner.inspect RUN [--step N] [--repaired] [--text TEXT] …`.

Lists the trajectories that the filters select. With --show, or if only one is left, shows the whole conversation with
what was overwritten. --html writes them to a small page. Trajectories are hostile text: control characters are shown by
name and never sent to the terminal.
"""

import argparse
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from verl_cleaner.report.conversation import Block, Kind
from verl_cleaner.report.diff import diff
from verl_cleaner.report.folder import RunFolder, Split, find_runs
from verl_cleaner.report.run import Run, names, read_run
from verl_cleaner.report.selection import Selection, is_right
from verl_cleaner.report.share import MAX_SHARED, share
from verl_cleaner.report.trajectory import Trajectory
from verl_cleaner.report.write import write_whole

_UNLIMITED = 10**9
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKS = {"-": ("−", "red"), "+": ("+", "green"), " ": (" ", "")}


def visible(text: str) -> str:
    """The text with names in place of control, direction and surrogate characters."""
    return _CONTROL.sub(
        lambda match: chr(0x2400 + ord(match[0])) if ord(match[0]) < 32 else f"<U+{ord(match[0]):04X}>", text
    )


def listing(runs: Sequence[tuple[Run, list[Trajectory]]]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for title in ("run", "step", "prompt", "rollout", "reward", "turns", "failures", ""):
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    table.add_column("question", no_wrap=True, overflow="ellipsis", ratio=1)
    for run, found in runs:
        for t in found:
            asked = next((block.text for block in reversed(t.prompt)), "")
            reward = Text(f"{t.score:g}" if t.score is not None else "–", style="green" if is_right(t) else "red")
            step = f"{t.step}" if t.split is Split.TRAIN else f"{t.step} {t.split}"
            repaired = Text("repaired", style="green") if t.repaired else Text("")
            kinds = Text(visible(", ".join(dict.fromkeys(t.kinds))), style="red")
            question = Text(visible(" ".join(asked.split())[:200]))
            run_name, uid = Text(visible(run.name)), Text(visible(t.uid[:8]))
            table.add_row(run_name, step, uid, str(t.rollout), reward, str(t.turns), kinds, repaired, question)
    return table


def conversation(run: Run, t: Trajectory, *, width: int) -> Iterator[Text | Syntax]:
    head = f"{run.name} · {t.split} step {t.step} · prompt {t.uid} · rollout {t.rollout}"
    yield Text(visible(head), style="bold")
    reward = "–" if t.score is None else f"{t.score:g}"
    yield Text(visible(f"reward {reward} · truth {t.ground_truth}"), style="green" if is_right(t) else "red")
    for block in t.prompt:
        yield from _block(block, width)
    shown: set[int] = set()
    for number, block in enumerate(t.blocks):
        yield from _block(block, width)
        turn = block.turn or 0
        last = (
            number + 1 == len(t.blocks)
            or t.blocks[number + 1].kind is Kind.RESPONSE
            or t.blocks[number + 1].turn != turn
        )
        if last and turn not in shown and block.kind is not Kind.RESPONSE:
            shown.add(turn)
            for retry in t.retries:
                if retry["turn"] == turn:
                    yield from _retry(retry)
    yield Text("")


def _block(block: Block, width: int) -> Iterator[Text | Syntax]:
    turn = f" · turn {block.turn}" if block.turn and block.kind is not Kind.RESPONSE else ""
    yield Text(f"\n{block.kind}{turn}", style="bold cyan" if block.turn else "bold magenta")
    if block.kind is Kind.CALL:
        yield Syntax(
            visible(block.code or block.text),
            "python",
            background_color="default",
            word_wrap=True,
            code_width=width - 2,
        )
    else:
        yield Text(
            visible(block.text), style="dim" if block.kind in (Kind.RESPONSE, Kind.SYSTEM, Kind.THINKING) else ""
        )


def _retry(retry: dict[str, object]) -> Iterator[Text]:
    facts = [f"retry {retry['retry']}: {', '.join(map(str, retry['kinds']))} -> {retry['result']}"]  # type: ignore[call-overload]
    if retry["similarity"] is not None:
        facts.append(f"similarity {retry['similarity']:.2f} (γ {retry['threshold']:g})")
    yield Text(visible("  " + " · ".join([*facts, str(retry["strategy"] or "")])), style="yellow")
    yield Text(visible("\n".join(f"  ! {line}" for line in str(retry["error"]).splitlines())), style="yellow")
    for line in diff(str(retry["failed_call"]), str(retry["new_call"])):
        mark, style = _MARKS[line.sign]
        text = Text(f"  {mark} ", style=style)
        for changed, part in line.parts:
            text.append(visible(part), style="bold underline" if changed and len(line.parts) > 1 else None)
        yield text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verl_cleaner.inspect", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="output folder of a run, or of several; or a file of rollouts"
    )
    parser.add_argument("--step", type=int)
    parser.add_argument("--split", choices=[str(split) for split in Split])
    parser.add_argument("--prompt", default="", metavar="UID", help="beginning of the prompt's uid")
    parser.add_argument("--rollout", type=int)
    parser.add_argument("--reward", choices=("right", "wrong"))
    parser.add_argument("--kind", help="a failure kind, any or none")
    parser.add_argument("--repaired", action=argparse.BooleanOptionalAction, help="with an overwritten turn")
    parser.add_argument("--text", default="", help="in prompt, response, code or error")
    parser.add_argument("--limit", type=int, default=20, help="trajectories to list or show (default: %(default)s)")
    parser.add_argument("--show", action="store_true", help="the whole conversations instead of a list")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write them to one small page that can be sent to someone"
    )
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.limit < 1:
        parser.error(f"--limit must be at least 1, got {options.limit}")
    try:
        folders = [_at(folder, options.step) for folder in find_runs(options.run)]
        titles = names([folder.path for folder in folders])
        runs = [read_run(f, name=title, limit=_UNLIMITED) for f, title in zip(folders, titles, strict=True)]
    except ValueError as error:
        parser.error(str(error))
    selection = Selection(
        step=options.step,
        split=options.split,
        uid=options.prompt,
        rollout=options.rollout,
        right=None if options.reward is None else options.reward == "right",
        kind=options.kind,
        repaired=options.repaired,
        text=options.text,
    )
    found = [(run, [t for t in run.trajectories if selection.takes(t)]) for run in runs]
    if options.html is None:
        _print(found, options)
    else:
        _share(found, options.html, parser)
    for run in runs:
        for warning in run.said():
            print(visible(f"warning: {warning}"), file=sys.stderr)
    return 0 if any(rows for _, rows in found) else 1


def _at(folder: RunFolder, step: int | None) -> RunFolder:
    """The folder without the dumps of other steps, which are then not read."""
    if step is None:
        return folder
    dumps = [
        # Rows of chat messages may have a step of their own.
        dump if dump.chat else replace(dump, steps={s: file for s, file in dump.steps.items() if s == step})
        for dump in folder.dumps
    ]
    return replace(folder, dumps=dumps)


def _share(found: Sequence[tuple[Run, list[Trajectory]]], out: Path, parser: argparse.ArgumentParser) -> None:
    count = sum(len(rows) for _, rows in found)
    if count > MAX_SHARED:
        parser.error(f"--html takes at most {MAX_SHARED} trajectories, got {count}; choose with --step, --prompt, …")
    if count:
        write_whole(out, share(found))
        print(f"{out}: {count} {'trajectory' if count == 1 else 'trajectories'}, {out.stat().st_size / 1e3:.0f} kB")
    else:
        print("no trajectory matches")


def _print(found: Sequence[tuple[Run, list[Trajectory]]], options: argparse.Namespace) -> None:
    colors = {"auto": None, "always": True, "never": False}[options.color]
    console = Console(highlight=False, markup=False, emoji=False, force_terminal=colors, no_color=colors is False)
    total = sum(len(rows) for _, rows in found)
    left, kept = options.limit, []
    for run, rows in found:
        kept.append((run, rows[:left]))
        left -= len(kept[-1][1])
    if options.show or total == 1:
        for run, rows in kept:
            for t in rows:
                console.print(*conversation(run, t, width=console.width), sep="\n")
    else:
        console.print(listing(kept))
    if total > options.limit:
        console.print(Text(f"{options.limit} of {total}; --limit shows more, --show the conversations", style="dim"))
    elif total == 0:
        console.print("no trajectory matches")


if __name__ == "__main__":
    # Like other filters: `| head` ends it quietly.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
