"""How the cells of sessions end: the part of the session warden between what is said to it and the end of sessions.

A cell is over when its process has ended, or is at rest and stopped, and nothing else that it has started lives. Then
its folder is looked at, it becomes a state or goes, and the service is told.
"""

import os
import signal
import time
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from code_judge.sandbox import census, processes
from code_judge.sandbox.family import Cell, Family, State, descendants, is_stopped
from code_judge.sandbox.files import MOST_BYTES, TooMuch, weight
from code_judge.sandbox.program_end import SWEEP_PAUSE_SECONDS, SWEEP_TURN_SECONDS
from code_judge.sandbox.session_close import Closings
from code_judge.sandbox.status import REST
from code_judge.sandbox.watch import Job, finish

END_SECONDS = 20.0
"""What a cell has started and what has not ended this long after it was killed makes its session be given up."""


class Endings(Closings):
    """guard: see guard.py."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._guard: int | None = None
        self._resident = 0
        self._watch.spare = AtRest(self._states, self._running, self._dropped)

    def _hear_out(self, who: Cell | int) -> None:
        """Take what was said on a control socket."""
        raise NotImplementedError

    def _kill(self, job: Job, why: str) -> None:
        assert isinstance(job, Cell)
        job.why = job.why or why
        if job.started:
            if not job.ended:
                os.kill(job.pid, signal.SIGKILL)
        elif why == "starved":
            self._lose(job.family, "the host gave its process too little CPU time", fault=False)
        elif why == "timeout":
            self._break(job, "its process did not fork in the cell's time")

    def _reap_child(self, pid: int) -> None:
        for cell in [job for job in self._running.values() if isinstance(job, Cell)]:
            if not cell.started or cell.pid == pid:
                # What it said before it ended.
                self._hear_out(cell)
        dropped = pid in self._dropped
        self._dropped.discard(pid)
        session = None if dropped or not self._running else census.session(pid)
        _, status, usage = os.wait4(pid, 0)
        cpu = usage.ru_utime + usage.ru_stime
        self._own.discard(pid)
        job = self._running.get(pid)
        if pid in self._states:
            self._died(pid, os.waitstatus_to_exitcode(status))
        elif isinstance(job, Cell):
            del self._running[pid]
            job.status = os.waitstatus_to_exitcode(status)
            finish(job, cpu, time.monotonic())
            self._end(job)
        else:
            for job in self._running.values():
                if job.session == session:
                    job.orphans_cpu += cpu

    def _died(self, pid: int, status: int) -> None:
        """A state has died that was not to."""
        opening = self._opening.pop(pid, None)
        state = self._states.pop(pid)
        family = state.family
        if family.cell is not None and family.cell.pid == pid and family.cell.state is not None:
            # It said that it was at rest, and has ended before it was stopped.
            family.cell.state, family.cell.ended, family.cell.status = None, b"", status
            return
        for number in [number for number, other in family.states.items() if other is state]:
            del family.states[number]
        self._ignore(state.control)
        state.control.close()
        if opening is not None:
            self._send({"id": opening[1], "status": 1, "error": "its process ended before it was ready"})
            return self._close(family)
        running = family.cell
        if running is not None and running.pid == pid:
            return self._break(running, "its process has ended instead of forking")
        # While it is at rest no cell can reach it, if signals are guarded.
        self._lose(family, "its process has died", fault=running is not None and self._guard is None)

    def _break(self, cell: Cell, why: str) -> None:
        """The state that the cell was to be forked from can run none, because of what earlier cells have done to it. It
        goes; other states of the family are as good as before."""
        family, origin = cell.family, cell.origin
        self._running.pop(origin.pid, None)
        for number in [number for number, state in family.states.items() if state is origin]:
            self._discard(family.states.pop(number), stopped=False)
        cell.why, cell.error = "broken", why
        self._end(cell)

    def _end(self, cell: Cell) -> None:
        """It runs no longer. Whether it is kept is decided now, as far as its folder does not decide it."""
        self._running.pop(cell.pid, None)
        cell.end = cell.end or time.monotonic()
        wanted = cell.keep == "always" or (cell.keep == "success" and cell.ended == REST)
        if cell.ended and cell.why is None and wanted:
            state = State(cell.pid, cell.family, cell.control, {}, *census.resident(cell.pid))
            if cell.family.used(state, self._resident) > cell.family.memory:
                cell.why = "memory"
            else:
                self._ignore(cell.control)
                cell.state = self._states[cell.pid] = state
        if cell.ended and cell.state is None:
            os.kill(cell.pid, signal.SIGKILL)
        self._ended.append(cell)

    def _report(self) -> None:
        if not self._ended and not self._closing:
            return
        strangers = self._strangers()
        now = time.monotonic()
        for cell in [job for job in self._ended if isinstance(job, Cell)]:
            left = cell.family.strangers(strangers)
            if cell.state is not None:
                left += descendants(cell.pid)
            if not left and (cell.state is None or is_stopped(cell.pid)):
                self._ended.remove(cell)
                self._conclude(cell)
            elif now - cell.end > END_SECONDS:
                # A process that says it is at rest and cannot be stopped has done so itself.
                self._lose(cell.family, "what a cell has started cannot be ended", fault=not left)
            elif now >= cell.next_sweep:
                cell.next_sweep = now + SWEEP_PAUSE_SECONDS
                self._end_strangers(cell, left)
        for family in self._closing[:]:
            if not family.strangers([*strangers, *self._dropped]):
                self._closing.remove(family)
                self._put_back(family.box)
            elif now >= family.next_sweep:
                family.next_sweep = now + SWEEP_PAUSE_SECONDS
                self._sweep_user(family.uid, signal.SIGKILL)

    def _strangers(self) -> list[int]:
        """Children of ours that are neither states nor cells: what cells have left behind."""
        return list(set(processes.children()).difference(self._states, self._running, self._own, self._dropped))

    def _pause(self) -> float | None:
        return SWEEP_TURN_SECONDS if self._closing else super()._pause()

    def _end_strangers(self, cell: Cell, left: list[int]) -> None:
        """Stop all processes of the session, so that none can fork itself out of it, and kill those that are no
        states."""
        self._sweep_user(cell.family.uid, signal.SIGSTOP)
        tops = [*cell.family.strangers(self._strangers()), *([cell.pid] if cell.state is not None else [])]
        below = [pid for top in tops for pid in descendants(top)]
        processes.kill_all({*left, *below, *tops} - {cell.pid if cell.state is not None else 0})

    def _conclude(self, cell: Cell) -> None:
        """Nothing of the cell lives but, if it is to be kept, its process at rest."""
        family = cell.family
        if cell.niceness:
            processes.give_way(cell.origin.pid, family.uid, (), 0)
        if cell.state is not None:
            try:
                cell.state.files = family.folder.capture()
                listings = [*(state.files for state in family.states.values()), cell.state.files]
                if weight(listings) > MOST_BYTES:
                    raise TooMuch("the files of its states take too much memory")
            except (TooMuch, OSError) as error:
                cell.why, cell.error = "files", str(error)
                self._discard(cell.state)
                cell.state = None
        if cell.state is None:
            self._ignore(cell.control)
            cell.control.close()
            if not self._restore(family, cell.origin):
                return
        else:
            family.states[cell.target] = family.holds = cell.state
        family.cell = None
        self._tell_cell(cell)
        if cell.state is not None and cell.drop:
            for number in [number for number, state in family.states.items() if state is cell.origin]:
                self._drop(family, number)

    def _restore(self, family: Family, state: State) -> bool:
        """Make the folder that of the state. False if it cannot be, and the family is lost."""
        try:
            family.folder.restore(state.files)
        except OSError as error:
            self._lose(family, f"its folder cannot be restored: {error}", fault=True)
            return False
        family.holds = state
        return True

    def _tell_cell(self, cell: Cell) -> None:
        self._send(
            {
                "id": cell.id,
                "status": cell.status,
                "why": cell.why,
                "seconds": round(cell.end - cell.clock.start, 6),
                "cpu": round(cell.clock.cpu, 4),
                "started": cell.started,
                "kept": cell.state is not None,
                "rest": bool(cell.ended),
                "word": cell.word.decode("utf-8", "replace"),
                "error": cell.error,
            }
        )


@dataclass(frozen=True, slots=True)
class AtRest:
    """Processes that belong to no cell: states from which no cell is being started, and dropped ones that have yet to
    end. They are of the cell's session, and what they have used before must not count as the cell's."""

    states: Container[int]
    running: Container[int]
    dropped: Container[int]

    def __contains__(self, pid: object) -> bool:
        return pid in self.dropped or (pid in self.states and pid not in self.running)
