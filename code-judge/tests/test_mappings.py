"""What makes forks cheaper: fewer mappings, larger pages."""

import subprocess
import sys

from judge_harness import Judge

COLLAPSE = """
import mmap, os
from code_judge.sandbox.mappings import collapse_heap
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
used, unused = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE), mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE)
used.write(b"x" * (16 << 20))
before = resident()
collapse_heap()
assert used[:] == b"x" * (16 << 20)
print(resident() - before)
"""


def test_memory_that_is_not_in_use_gets_no_huge_pages() -> None:
    done = subprocess.run([sys.executable, "-c", COLLAPSE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 << 20


def test_a_library_is_two_mappings_of_a_program(served: Judge) -> None:
    """Code with constants, and data. Each one more is copied by fork and freed by exit."""
    count = (
        "from collections import Counter\nimport decimal, math\n"
        "lines = [line.split() for line in open('/proc/self/maps')]\n"
        "found = Counter(fields[5] for fields in lines if '.so' in ''.join(fields[5:]))\n"
        "print(any('_decimal' in name for name in found), max(found.values()))"
    )
    assert served.run(count)["stdout"] == "True 2\n"


def test_joined_libraries_work(served: Judge) -> None:
    """Also those that a program loads itself, and an extension's data that was read-only."""
    program = "import ctypes, decimal, sqlite3, zlib\nprint(decimal.Decimal(1) / 7, zlib.crc32(b'x'))"
    assert served.run(program)["stdout"] == "0.1428571428571428571428571429 2363233923\n"
