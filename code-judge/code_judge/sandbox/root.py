"""A root of its own for the programs: the system and the interpreter, read-only, and their folders in memory.

Standard library only: the zygote imports it.
"""

import os
import sys

from code_judge.sandbox import kernel

FOLDER_BYTES, FOLDER_FILES = 64 << 20, 4096
BOXES = "/box"

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/mime.types", "/etc/ssl/certs")
DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    # Paths that programs write to; to each, its own folder.
    "/dev/shm": "/proc/self/cwd",
    "/tmp": "/proc/self/cwd",
}


def new_root(folder: str, *, own_processes: bool, own_users: bool) -> None:
    """Build the root in `folder` and enter it. own_processes, own_users: whether the programs have a process namespace
    and users of their own. Raises OSError."""
    if not own_processes:
        raise OSError("needs the layer pid, for a /proc that shows only the programs'")
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("root", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in ("/proc", "/dev", "/etc", BOXES):
        os.mkdir(folder + path, 0o755)
    for path in (*SYSTEM, *ETC, *interpreter()):
        _bring_in(path, folder)
    for name in DEVICES:
        os.close(os.open(f"{folder}/dev/{name}", os.O_CREAT, 0o666))
        kernel.bind_device(f"/dev/{name}", f"{folder}/dev/{name}")
    for path, target in _LINKS.items():
        # An interpreter below /tmp is there already; then that folder is as read-only as it.
        if not os.path.lexists(folder + path):
            os.symlink(target, folder + path)
    with open(f"{folder}/etc/passwd", "w") as file:
        file.write("program:x:65534:65534::/tmp:/bin/sh\n")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    # Without users of their own, hiding what a program may not look at would hide its processes from us as well.
    hide = "hidepid=invisible," if own_users else ""
    kernel.mount("proc", f"{folder}/proc", "proc", flags, f"{hide}subset=pid")
    kernel.mount("boxes", folder + BOXES, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=711")
    kernel.enter_root(folder)
    kernel.mount(
        "", "/", flags=kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    )


def _bring_in(path: str, folder: str) -> None:
    target = folder + path
    if not os.path.lexists(path) or os.path.lexists(target):
        return
    if os.path.islink(path) and path in SYSTEM:
        os.symlink(os.readlink(path), target)
        return
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    if os.path.isdir(path):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT, 0o644))
    kernel.bind_read_only(os.path.realpath(path), target)


def interpreter() -> list[str]:
    """Where Python and its packages are, outermost first."""
    paths = {os.path.abspath(path) for path in (sys.base_prefix, sys.base_exec_prefix, sys.prefix)}
    found: list[str] = []
    for path in sorted(paths):
        if not any(path == outer or path.startswith(outer + "/") for outer in (*found, "/usr")):
            found.append(path)
    return found


def fresh_box(path: str, uid: int) -> None:
    """Mount an empty folder at `path`, over what may be there."""
    options = f"size={FOLDER_BYTES},nr_inodes={FOLDER_FILES},mode=700,uid={uid},gid={uid}"
    kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def try_box() -> None:
    """Raises OSError if a program's folder cannot be made."""
    path = f"{BOXES}/probe"
    os.mkdir(path)
    fresh_box(path, 0)
    kernel.unmount(path)
    os.rmdir(path)
