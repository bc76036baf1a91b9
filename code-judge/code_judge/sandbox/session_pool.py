"""Opens sessions and runs their cells, in zygotes of their own, one a flavour."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from code_judge.sandbox.capture import Capture, memory_file
from code_judge.sandbox.limits import MOST_WALL
from code_judge.sandbox.link import Link, SandboxLost
from code_judge.sandbox.pool import LATE_SECONDS, Execution
from code_judge.sandbox.status import read_exception

NEEDED = ("pid", "mount", "tmpfs", "uid", "seccomp")
"""Layers without which sessions would be less isolated than programs."""
OPEN_SECONDS = 30.0


class SessionsImpossible(Exception):
    """This host does not give what sessions need."""


class StateBroken(Exception):
    """A state can run no cells because of what earlier cells have done to it: their fault, not ours."""


class FamilyEnded(StateBroken):
    """All states of a session have ended because of what its cells have done."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one session. seconds: of a cell, as in limits.py. memory: bytes. output: bytes of each of a cell's outputs."""

    seconds: float
    memory: int
    output: int


@dataclass(frozen=True, slots=True)
class CellExecution:
    """execution: how the cell ended; a status of 0 says that it came to rest by itself. kept: it is the new state.
    cpu: seconds. note: why it was not kept although it had ended well."""

    execution: Execution
    kept: bool
    cpu: float
    note: str


@dataclass(eq=False, slots=True)
class Family:
    """A session's processes. ended: done when they have ended unasked; its result says why. running: the task of the
    cell that runs, and its number."""

    link: Link
    id: int
    limits: Limits
    ended: "asyncio.Future[dict[str, Any]]"
    running: "tuple[asyncio.Task[Any] | None, int] | None" = None

    def check(self) -> None:
        """Raises FamilyEnded or SandboxLost."""
        if not self.ended.done():
            return
        report = self.ended.result()
        raise FamilyEnded(report["why"]) if report["fault"] else SandboxLost(report["why"])


class SessionPool:
    def __init__(self, python: str = "") -> None:
        """python: see Sandbox."""
        self._python = python
        self._ids = itertools.count()
        self._links: dict[str, Link] = {}
        self._all: set[Link] = set()

    async def close(self) -> None:
        """Returns when nothing of the sessions is left."""
        for link in self._all:
            link.close()
        await asyncio.gather(*(link.cleaned for link in self._all))

    async def open(self, flavour: str, limits: Limits) -> Family:
        """Raises SandboxLost, SessionsImpossible."""
        link = await self._link(f"{flavour}+sessions")
        missing = [
            f"{layer} ({link.missing.get(layer, 'not available')})" for layer in NEEDED if layer not in link.layers
        ]
        if missing:
            raise SessionsImpossible(
                f"sessions need layers of isolation that this host does not give: {'; '.join(missing)}"
            )
        number, family = next(self._ids), next(self._ids)
        opened = link.begin(number, lambda _: None, OPEN_SECONDS)
        ended = link.begin(family, lambda _: None, float("inf"))
        try:
            await link.send({"open": number, "family": family, "memory": limits.memory, "seconds": limits.seconds}, [])
            report = await opened
        except asyncio.CancelledError:
            # Nobody would ever end it.
            link.forget(family)
            _tell(link, {"close": True, "family": family})
            raise
        finally:
            link.forget(number)
        if report["status"]:
            link.forget(family)
            raise SandboxLost(f"a session could not be opened: {report['error']}")
        return Family(link, family, limits, ended)

    async def run(
        self,
        family: Family,
        state: int,
        target: int,
        source: str,
        *,
        number: int,
        echo: bool,
        keep: str,
        drop: bool,
        on_idle: Callable[[bool], None] = lambda _: None,
    ) -> CellExecution:
        """Run one cell from `state`; if it is kept, the new state is `target`, and with `drop` the old one goes.

        Raises SandboxLost, StateBroken, and FamilyEnded for all states.
        """
        family.check()
        run, link, limits = next(self._ids), family.link, family.limits
        command = {
            "cell": run,
            "family": family.id,
            "from": state,
            "to": target,
            "number": number,
            "seconds": limits.seconds,
            "echo": echo,
            "keep": keep,
            "drop": drop,
        }
        family.running = asyncio.current_task(), run
        ended = link.begin(run, on_idle, MOST_WALL * limits.seconds + LATE_SECONDS)
        try:
            with contextlib.ExitStack() as files:
                text = files.enter_context(memory_file(source))
                overflow = partial(link.kill, run, "output_limit")
                outputs = [files.enter_context(Capture(limits.output, overflow)) for _ in range(2)]
                await link.send(command, [text, *(output.write_fd for output in outputs)])
                for output in outputs:
                    output.start()
                await asyncio.wait({ended, family.ended}, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    family.check()
                return _cell_execution(ended.result(), outputs)
        finally:
            family.running = None
            link.forget(run)

    def kill(self, family: Family, task: "asyncio.Task[Any]") -> bool:
        """Kill the cell that `task` runs; its `run` returns all the same. False if it does not run one."""
        if family.running is None or family.running[0] is not task:
            return False
        family.link.kill(family.running[1], "cancelled")
        return True

    def drop(self, family: Family, states: list[int]) -> None:
        if states:
            _tell(family.link, {"drop": states, "family": family.id})

    def end(self, family: Family) -> None:
        """Its processes and files go."""
        family.link.forget(family.id)
        _tell(family.link, {"close": True, "family": family.id})

    async def _link(self, name: str) -> Link:
        link = self._links.get(name)
        if link is None or not link.alive:
            try:
                link = self._links[name] = Link(name, self._python)
            except OSError as error:
                raise SandboxLost(f"the sandbox's zygote could not be started: {error}") from error
            self._all.add(link)
            link.cleaned.add_done_callback(lambda _, link=link: self._all.discard(link))  # type: ignore[misc]
        await link.ready()
        return link


def _tell(link: Link, command: dict[str, Any]) -> None:
    async def send() -> None:
        with contextlib.suppress(SandboxLost):
            await link.send(command, [])

    task = asyncio.ensure_future(send())
    _told.add(task)
    task.add_done_callback(_told.discard)


_told: set["asyncio.Future[None]"] = set()


def _cell_execution(report: dict[str, Any], outputs: list[Capture]) -> CellExecution:
    stdout, stderr = (output.finish() for output in outputs)
    if report["why"] == "broken":
        raise StateBroken(report["error"])
    if report["why"] == "starved":
        raise SandboxLost("the host gave the cell too little CPU time; let fewer cells run at a time, or add cores")
    if report["why"] is None and not report["started"]:
        raise SandboxLost(f"the cell could not be started: {report['error']}")
    overflowed = any(output.overflowed for output in outputs)
    name, line = read_exception(report["word"].encode())
    # A process that ends instead of coming to rest has failed, whatever its status.
    gone = report["status"] == 0 and not report["rest"]
    why = report["why"] or ("output_limit" if overflowed else "exited" if gone else None)
    execution = Execution(
        status=report["status"],
        why=why,
        seconds=report["seconds"],
        stdout=stdout.decode("utf-8", "replace"),
        stderr=stderr.decode("utf-8", "replace"),
        exception=name,
        line=line,
    )
    return CellExecution(execution, report["kept"], report["cpu"], report["error"])
