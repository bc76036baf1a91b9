"""Runs programs in forks of warm zygotes, one zygote a flavour."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from code_judge.sandbox.capture import Capture, memory_file
from code_judge.sandbox.flavours import BARE
from code_judge.sandbox.interpreter import find_flavours
from code_judge.sandbox.layers import FULL, LAYERS
from code_judge.sandbox.limits import MOST_WALL
from code_judge.sandbox.link import Link, SandboxLost
from code_judge.sandbox.parcel import answer, ask, pack
from code_judge.sandbox.status import StatusChannel

LATE_SECONDS = 60.0
"""A report that is later than this after the latest end of its program is lost."""


@dataclass(frozen=True, slots=True)
class Program:
    """A script. With `artefact`, a source to compile into it: by `compiler`, C++; without one, Python. Compiled C++ is
    the `binary` of a program without a source, compiled Python the `code` beside its source.

    seconds: the limit of limits.py. cpu: the most of it in CPU time; None: all. memory: bytes. output: bytes of
    stdout, and of stderr, after which the program is killed. echo: print the value of a last expression. binary,
    artefact, code: file descriptors. files: put into its folder, by name. fetch: names and patterns of what is returned
    of it, of at most `most_fetched` bytes.
    """

    source: str
    stdin: str
    seconds: float
    memory: int
    output: int
    echo: bool = False
    compiler: tuple[str, ...] = ()
    binary: int | None = None
    artefact: int | None = None
    code: int | None = None
    cpu: float | None = None
    files: tuple[tuple[str, bytes], ...] = ()
    fetch: tuple[str, ...] = ()
    most_fetched: int = 0

    @property
    def do(self) -> str:
        if self.artefact is not None:
            return "compile"
        return "execute" if self.binary is not None else "script"


@dataclass(frozen=True, slots=True)
class Execution:
    """How a program ended.

    status: exit status, or minus the signal. why: timeout, memory or output_limit if it was killed for that.
    exception, line: class name and source line of the uncaught exception, as the program's process reported them. A
    program can forge these two, within the bounds of status.py; it cannot forge the others. files, left_out: by name,
    what was fetched, and why something was not.
    """

    status: int
    why: str | None
    seconds: float
    stdout: str
    stderr: str
    exception: str | None
    line: int | None
    files: dict[str, bytes] | None = None
    left_out: dict[str, str] | None = None


class Sandbox:
    """Any number of programs at a time; the caller decides how many."""

    def __init__(self, python: str = "", warm: Sequence[str] = ()) -> None:
        """python: path of the programs' interpreter; empty, this one. warm: modules to keep warm besides. Raises
        ValueError."""
        self._python = python
        self._flavours = find_flavours(python, warm)
        self._ids = itertools.count()
        self._links: dict[str, Link] = {}
        # With those that have been replaced and are not yet gone.
        self._all: set[Link] = set()
        self.layers: tuple[str, ...] = ()
        self.missing: dict[str, str] = {}

    async def start(self) -> None:
        """Start the bare zygote now, and learn which layers are in force. Raises SandboxLost."""
        link = await self._link(BARE)
        self.layers = tuple(layer for layer in LAYERS if layer in link.layers)
        self.missing = link.missing

    async def close(self) -> None:
        """End the zygotes and with them every program. Returns when nothing of them is left."""
        for link in self._all:
            link.close()
        await asyncio.gather(*(link.cleaned for link in self._all))

    async def run(self, program: Program, on_idle: Callable[[bool], None] = lambda _: None) -> Execution:
        """on_idle: called when the program begins to wait for something else than a core, and when it stops doing so.

        Raises SandboxLost.
        """
        link = await self._link(self._flavours.choose(program.source) if program.do == "script" else BARE)
        number = next(self._ids)
        command = {
            "run": number,
            "do": program.do,
            "seconds": program.seconds,
            "cpu": program.seconds if program.cpu is None else min(program.cpu, program.seconds),
            "memory": program.memory,
            "echo": program.echo,
            "command": program.compiler,
        }
        try:
            with contextlib.ExitStack() as files:
                overflow = partial(link.kill, number, "output_limit")
                source, stdin = (files.enter_context(memory_file(text)) for text in (program.source, program.stdin))
                outputs = [files.enter_context(Capture(program.output, overflow)) for _ in range(2)]
                status = files.enter_context(StatusChannel())
                inputs = [source if program.binary is None else program.binary, stdin]
                given = {"artefact": program.artefact, "code": program.code}
                more = {name: fd for name, fd in given.items() if fd is not None}
                if program.files:
                    more["files"] = files.enter_context(memory_file(pack(program.files)))
                if program.fetch:
                    more["fetch"] = files.enter_context(memory_file(ask(program.fetch, program.most_fetched)))
                return await _execute(link, command, inputs, outputs, status, more, on_idle)
        finally:
            link.forget(number)

    async def _link(self, flavour: str) -> Link:
        link = self._links.get(flavour)
        if link is None or not link.alive:
            try:
                link = self._links[flavour] = Link(flavour, self._python)
                self._all.add(link)
                link.cleaned.add_done_callback(lambda _, link=link: self._all.discard(link))  # type: ignore[misc]
            except OSError as error:
                raise SandboxLost(f"the sandbox's zygote could not be started: {error}") from error
        await link.ready()
        return link


def check_isolation(required: str, layers: tuple[str, ...], missing: dict[str, str]) -> None:
    """`required`: names of layers with commas between; "full" is FULL. Raises ValueError naming what is not there."""
    asked = [name.strip() for name in required.split(",") if name.strip()]
    names = list(dict.fromkeys(layer for name in asked for layer in (FULL if name == "full" else (name,))))
    unknown = [name for name in names if name not in LAYERS]
    if unknown:
        raise ValueError(
            f"CODE_JUDGE_REQUIRE_ISOLATION names {unknown[0]!r}; the layers are {', '.join(LAYERS)}, or full for all "
            "that root can have on any host"
        )
    absent = [f"{name} ({missing.get(name, 'not available')})" for name in names if name not in layers]
    if absent:
        raise ValueError(
            f"CODE_JUDGE_REQUIRE_ISOLATION asks for more than this host gives: {'; '.join(absent)}. Run as root, in a "
            "container with --cap-add=SYS_ADMIN --security-opt apparmor=unconfined, or ask for less"
        )


async def _execute(
    link: Link,
    command: dict[str, Any],
    inputs: list[int],
    outputs: list[Capture],
    status: StatusChannel,
    more: dict[str, int],
    on_idle: Callable[[bool], None],
) -> Execution:
    """more: descriptors that not every program has, by name; the last one is that of `fetch`, if there is one."""
    ended = link.begin(command["run"], on_idle, MOST_WALL * command["seconds"] + LATE_SECONDS)
    fds = [*inputs, *(output.write_fd for output in outputs), status.write_fd, *more.values()]
    await link.send({**command, "more": list(more)}, fds)
    for output in outputs:
        output.start()
    status.start()
    try:
        report = await ended
    except asyncio.CancelledError:
        link.kill(command["run"], "cancelled")
        raise
    stdout, stderr = (output.finish() for output in outputs)
    started, exception, line = status.finish()
    overflowed = any(output.overflowed for output in outputs)
    text = stderr.decode("utf-8", "replace")
    if report["why"] == "starved":
        raise SandboxLost(
            "the host gave the program too little CPU time; let fewer programs run at a time, or add cores"
        )
    if report["why"] is None and not started:
        raise SandboxLost(f"the program could not be started: {report.get('error') or text.strip() or 'killed'}")
    files, left_out = answer(more["fetch"]) if "fetch" in more else (None, None)
    return Execution(
        status=report["status"],
        why=report["why"] or ("output_limit" if overflowed else None),
        seconds=report["seconds"],
        stdout=stdout.decode("utf-8", "replace"),
        stderr=text,
        exception=exception,
        line=line,
        files=files,
        left_out=left_out,
    )
