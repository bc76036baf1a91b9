"""The system calls behind the template, each in a process of its own."""

import subprocess
import sys

COLLAPSE = """
import mmap, os
from code_judge.sandbox import kernel
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
used, unused = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE), mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE)
used.write(b"x" * (16 << 20))
before = resident()
kernel.collapse_heap()
assert used[:] == b"x" * (16 << 20)
print(resident() - before)
"""


def test_memory_that_is_not_in_use_gets_no_huge_pages() -> None:
    done = subprocess.run([sys.executable, "-c", COLLAPSE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 << 20


def test_a_fork_beside_its_maker() -> None:
    script = """
import os
from code_judge.sandbox import kernel
read, write = os.pipe()
maker = os.fork()
if maker == 0:
    pid = kernel.fork_sibling()
    if pid == 0:
        os.abort()
    os.write(write, b"%d" % pid)
    os._exit(0)
os.waitpid(maker, 0)
pid = int(os.read(read, 32))
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "-6\n"
