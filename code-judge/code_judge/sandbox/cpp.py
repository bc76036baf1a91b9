"""C++ in a fork of the zygote: compile a source to a file in memory, or become such a file.

The compiler is a program as any other: the same user, limits and walls. Standard library only: the zygote imports it.
"""

import os

SOURCE, BINARY = "main.cpp", "main"


def compile_source(source: bytes, command: list[str], artefact_fd: int) -> int:
    """Compile SOURCE to BINARY in the current folder, by `command`, and write the result to `artefact_fd`. Returns the
    compiler's exit status."""
    with open(SOURCE, "wb") as file:
        file.write(source)
    pid = os.posix_spawnp(command[0], command, os.environ)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        with open(BINARY, "rb") as binary:
            while os.sendfile(artefact_fd, binary.fileno(), None, 1 << 30):
                pass
    return code if code >= 0 else 128 - code


def execute(binary_fd: int) -> None:
    """Returns only by raising OSError."""
    os.execve(binary_fd, [BINARY], os.environ)
