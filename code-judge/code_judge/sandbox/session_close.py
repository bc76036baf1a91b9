"""How the states of sessions end, and sessions themselves: the lowest part of the session warden."""

import contextlib
import os
import signal
import socket
from typing import Any

from code_judge.sandbox import processes
from code_judge.sandbox.family import Cell, Family, State
from code_judge.sandbox.warden import Warden


class Closings(Warden):
    """families: by id. states: by process. opening: by process, the family and the id of the command. speaking: by
    descriptor, the cell, or the process of a state that is being opened."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._families: dict[int, Family] = {}
        self._states: dict[int, State] = {}
        self._opening: dict[int, tuple[Family, int]] = {}
        self._speaking: dict[int, Cell | int] = {}
        self._closing: list[Family] = []
        # Killed while they were stopped, so that they do nothing any longer; not yet reaped.
        self._dropped: set[int] = set()

    def _ignore(self, control: socket.socket) -> None:
        """Listen to it no longer."""
        if self._speaking.pop(control.fileno(), None) is not None:
            self._poll.unregister(control.fileno())

    def _drop(self, family: Family, number: int) -> None:
        state = family.states.pop(number, None)
        if state is not None:
            self._discard(state)

    def _discard(self, state: State, *, stopped: bool = True) -> None:
        state.control.close()
        del self._states[state.pid]
        # Not reaped as long as it was known.
        os.kill(state.pid, signal.SIGKILL)
        if stopped:
            self._dropped.add(state.pid)

    def _lose(self, family: Family, why: str, *, fault: bool) -> None:
        """fault: its own cells are to blame."""
        self._send({"id": family.id, "fault": fault, "why": why})
        self._close(family)

    def _close(self, family: Family) -> None:
        del self._families[family.id]
        cell = family.cell
        if cell is not None:
            self._ignore(cell.control)
            self._running.pop(cell.pid, None)
            if cell in self._ended:
                self._ended.remove(cell)
            if cell.state is not None:
                self._states.pop(cell.pid, None)
            cell.control.close()
        for number, state in list(family.states.items()):
            self._opening.pop(state.pid, None)
            if state.pid in self._states:
                self._ignore(state.control)
                state.control.close()
                del self._states[state.pid]
            del family.states[number]
        self._sweep_user(family.uid, signal.SIGKILL)
        self._closing.append(family)

    def _sweep_user(self, uid: int, number: int) -> None:
        with contextlib.suppress(OSError):
            os.waitpid(processes.kill_user(uid, self._layers.killer_uid, number), 0)
