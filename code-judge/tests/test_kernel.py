"""The system calls behind the template, each in a process of its own."""

import subprocess
import sys


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
