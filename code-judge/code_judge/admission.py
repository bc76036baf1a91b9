"""How many programs may start now: pure bookkeeping.

Three limits hold together. Slots limit the programs that are there. Few young programs a core run at a time, so that
short programs, which are nearly all, run one after the other instead of all at once. And there is a limit on the
programs that want a core; one that sleeps or waits for input does not count. So more slots than cores help where
programs wait, and do no harm where they compute: what cannot be given a core soon stays in the queue.
"""

from collections.abc import Hashable

YOUNG_SECONDS = 0.1
"""A program is young until this long after its start."""
YOUNG_PER_CORE = 3
ACTIVE_PER_CORE = 8


class Admission:
    def __init__(self, *, slots: int, cores: int) -> None:
        self._slots = slots
        self._most_young = YOUNG_PER_CORE * cores
        self._most_active = ACTIVE_PER_CORE * cores
        self._all: set[Hashable] = set()
        self._young: set[Hashable] = set()
        self._idle: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._all)

    def room(self) -> int:
        """Programs that may start now; not more than 0 if none."""
        return min(
            self._slots - len(self._all),
            self._most_young - len(self._young),
            self._most_active - len(self._all) + len(self._idle),
        )

    def add(self, program: Hashable) -> None:
        """Also one that has its place already, and begins anew."""
        self._all.add(program)
        self._young.add(program)
        self._idle.discard(program)

    def grow(self, program: Hashable) -> None:
        """It is no longer young."""
        self._young.discard(program)

    def set_idle(self, program: Hashable, idle: bool) -> None:
        """Whether it waits for something else than a core. One that has ended already is left out."""
        if idle and program in self._all:
            self._idle.add(program)
            self._young.discard(program)
        else:
            self._idle.discard(program)

    def remove(self, program: Hashable) -> None:
        self._all.discard(program)
        self._young.discard(program)
        self._idle.discard(program)
