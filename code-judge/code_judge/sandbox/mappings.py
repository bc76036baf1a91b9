"""What a process has mapped, arranged so that its forks cost less: fewer mappings, larger pages.

Fork copies each mapping and each page's entry, and exit frees them; for a short program that is a good part of its
cost. Standard library only: the zygote imports it.
"""

import contextlib
import os
from dataclasses import dataclass

from code_judge.sandbox import kernel

_READ_WRITE, _READ_EXECUTE = 1 | 2, 1 | 4
_MADV_POPULATE_WRITE, _MADV_COLLAPSE = 23, 25
_HUGE = 2 << 20


@dataclass(frozen=True, slots=True)
class _Area:
    """One line of /proc/self/maps. file: its device and inode; None without a file."""

    start: int
    end: int
    rights: str
    offset: int
    file: tuple[str, str] | None
    name: str

    def goes_on_in(self, other: "_Area") -> bool:
        return (
            self.file is not None
            and self.file == other.file
            and self.end == other.start
            and self.offset + (self.end - self.start) == other.offset
        )


def join_mappings() -> None:
    """Give neighbouring parts of a loaded library the same rights, so that the kernel keeps them as one mapping.

    A library has up to five: read-only data can be executed then, and what the loader made read-only can be written. A
    script can do both to its own process at any time. Call it before a fork: memory that was written before one and
    after it does not become one mapping.
    """
    areas = _areas()
    for place, area in enumerate(areas):
        if area.rights != "r--p":
            continue
        after = areas[place + 1].rights if place + 1 < len(areas) and area.goes_on_in(areas[place + 1]) else ""
        before = areas[place - 1].rights if place and areas[place - 1].goes_on_in(area) else ""
        rights = _READ_WRITE if after == "rw-p" else _READ_EXECUTE if "r-xp" in (before, after) else 0
        # Where the host refuses, the parts stay apart.
        with contextlib.suppress(OSError):
            if rights:
                kernel.protect(area.start, area.end - area.start, rights)


def collapse_heap() -> None:
    """Onto huge pages, where the kernel can (6.1): fork and exit then have fewer pages to count."""
    if kernel.imitated():
        return
    with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb", 0) as pagemap:
        for area in _areas():
            if area.rights == "rw-p" and area.name in ("", "[heap]"):
                for page in range(area.start + -area.start % _HUGE, area.end - _HUGE + 1, _HUGE):
                    _collapse(page, pagemap.fileno())


def _areas() -> list[_Area]:
    """None where there is no /proc."""
    found = []
    with contextlib.suppress(OSError), open("/proc/self/maps") as file:
        for line in file.readlines():
            addresses, rights, offset, device, inode, name = (*line.split(None, 5), "")[:6]
            start, end = (int(address, 16) for address in addresses.split("-"))
            owner = (device, inode) if inode != "0" else None
            found.append(_Area(start, end, rights, int(offset, 16), owner, name.strip()))
    return found


def _collapse(start: int, pagemap: int) -> None:
    """A huge page's worth of memory, unless most of it is not in use."""
    entries = memoryview(os.pread(pagemap, _HUGE // 512, start // 512)).cast("Q")
    if sum(entry >> 63 for entry in entries) > len(entries) // 2:
        # The kernel leaves alone what has no page that is the process's own.
        for length, advice in ((1, _MADV_POPULATE_WRITE), (_HUGE, _MADV_COLLAPSE)):
            with contextlib.suppress(OSError):
                kernel.advise(start, length, advice)
