"""The layers of isolation around programs: put in place once for a zygote, each probed, and reported as found.

    pid           a process namespace; processes of the host are out of sight and reach
    mount         a root of its own: the system and the interpreter, read-only, and nothing else
    net           a network namespace without a network
    ipc           an IPC namespace
    user          a user namespace; only where the service is not root
    tmpfs         a program's folder is a file system in memory, limited in bytes and files, fresh for each program
    uid           a user of its own for each slot
    seccomp       system calls that scripts do not need are refused (filter.py)
    landlock      files outside its folder cannot be written, those not needed not be read; signals stay inside
    no_new_privs  no set-uid program gives privileges

What a program is started with is in user.py; killing all it started, and its limits, in warden.py.
Standard library only: the zygote imports it.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from code_judge.sandbox import filter, kernel

LAYERS = ("pid", "mount", "net", "ipc", "user", "tmpfs", "uid", "seccomp", "landlock", "no_new_privs")
FULL = tuple(layer for layer in LAYERS if layer != "user")
"""What root can have, and what CODE_JUDGE_REQUIRE_ISOLATION=full asks for."""
FOLDER_BYTES, FOLDER_FILES = 64 << 20, 4096
BOXES = "/box"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/mime.types", "/etc/ssl/certs")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    # Paths that programs write to; to each, its own folder.
    "/dev/shm": "/proc/self/cwd",
    "/tmp": "/proc/self/cwd",
}
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE_RIGHTS = _WRITE_FILE | _READ_FILE


@dataclass(slots=True)
class Layers:
    """active: in force. missing: the others, with the reason. filter: what a program has to install of it itself."""

    active: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)
    filter: kernel.Filter | None = None
    first_uid: int = 0

    def attempt(self, layer: str, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            self.missing[layer] = str(error)
        else:
            self.active.add(layer)


def leave_processes() -> Layers:
    """First step, in the keeper: the next process it forks is the first of a namespace."""
    layers = Layers()
    if os.geteuid() == 0:
        layers.missing["user"] = "the service is root; programs run as users of their own"
    else:
        layers.attempt("user", _become_root_of_a_namespace)
    layers.attempt("pid", lambda: kernel.unshare(kernel.CLONE_NEWPID))
    return layers


def enter(layers: Layers, folder: str) -> None:
    """Second step, in the zygote. `folder`: an empty one to build the root in."""
    layers.attempt("ipc", lambda: kernel.unshare(kernel.CLONE_NEWIPC))
    layers.attempt("net", lambda: kernel.unshare(kernel.CLONE_NEWNET))
    layers.attempt("mount", lambda: _new_root(folder, own_processes="pid" in layers.active))
    if "mount" in layers.active:
        layers.attempt("tmpfs", _try_box)
    else:
        layers.missing["tmpfs"] = "needs the layer mount"
    if os.geteuid() == 0 and "user" not in layers.active:
        # Another service on this host has another range.
        layers.first_uid = 0x10000000 + int.from_bytes(os.urandom(2), "little") * 0x1000
        layers.attempt("uid", lambda: _in_child(lambda: _probe_uid(layers.first_uid)))
    else:
        layers.missing["uid"] = "the service is not root"
    # The zygote starts no set-uid program either.
    layers.attempt("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
    layers.attempt("seccomp", lambda: _in_child(_enter_filter))
    layers.attempt("landlock", _probe_landlock)


def namespaces(layers: Layers) -> list[int]:
    """Descriptors of those that `enter` has made, for `join`."""
    made = {"ipc": ("ipc",), "net": ("net",), "mount": ("uts", "mnt")}
    return [
        os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        for layer, names in made.items()
        if layer in layers.active
        for name in names
    ]


def join(active: list[str], made: list[int]) -> Layers:
    """Third step, in the template. `made`: see `namespaces`."""
    for namespace in made:
        kernel.join_namespace(namespace)
    if "no_new_privs" in active:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    return Layers(set(active), filter=_enter_filter() if "seccomp" in active else None)


def ruleset(layers: Layers, folder: str) -> int:
    """Of the slot whose programs own `folder`: a file descriptor for `kernel.landlock_restrict`."""
    abi = kernel.landlock_abi()
    everything = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    # TCP bind and connect from version 4 on; abstract sockets and signals from version 6 on.
    fd = kernel.landlock_ruleset(everything, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0, abi=abi)
    if "mount" in layers.active:
        # Nothing is in this root that a program may not read, but for other programs' folders.
        for name in os.listdir("/"):
            if f"/{name}" != BOXES and not os.path.islink(f"/{name}"):
                kernel.landlock_allow(fd, f"/{name}", _READ)
    else:
        for path in (*_SYSTEM, *_ETC, *_interpreter()):
            if os.path.exists(path):
                kernel.landlock_allow(fd, path, _READ if os.path.isdir(path) else _READ & ~_READ_DIR)
    for device in _DEVICES:
        kernel.landlock_allow(fd, f"/dev/{device}", _DEVICE_RIGHTS)
    kernel.landlock_allow(fd, folder, everything)
    return fd


def fresh_box(path: str, uid: int) -> None:
    """Mount an empty folder at `path`, over what may be there."""
    options = f"size={FOLDER_BYTES},nr_inodes={FOLDER_FILES},mode=700,uid={uid},gid={uid}"
    kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def _become_root_of_a_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _new_root(folder: str, *, own_processes: bool) -> None:
    if not own_processes:
        raise OSError("needs the layer pid, for a /proc that shows only the programs'")
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("root", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in ("/proc", "/dev", "/etc", BOXES):
        os.mkdir(folder + path, 0o755)
    for path in (*_SYSTEM, *_ETC, *_interpreter()):
        _bring_in(path, folder)
    for name in _DEVICES:
        os.close(os.open(f"{folder}/dev/{name}", os.O_CREAT, 0o666))
        kernel.bind_device(f"/dev/{name}", f"{folder}/dev/{name}")
    for path, target in _LINKS.items():
        # An interpreter below /tmp is there already; then that folder is as read-only as it.
        if not os.path.lexists(folder + path):
            os.symlink(target, folder + path)
    with open(f"{folder}/etc/passwd", "w") as file:
        file.write("program:x:65534:65534::/tmp:/bin/sh\n")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", f"{folder}/proc", "proc", flags, "hidepid=invisible,subset=pid")
    kernel.mount("boxes", folder + BOXES, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=711")
    kernel.enter_root(folder)
    kernel.mount(
        "", "/", flags=kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    )


def _bring_in(path: str, folder: str) -> None:
    target = folder + path
    if not os.path.lexists(path) or os.path.lexists(target):
        return
    if os.path.islink(path) and path in _SYSTEM:
        os.symlink(os.readlink(path), target)
        return
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    if os.path.isdir(path):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT, 0o644))
    kernel.bind_read_only(os.path.realpath(path), target)


def _interpreter() -> list[str]:
    """Where Python and its packages are, outermost first."""
    paths = {os.path.abspath(path) for path in (sys.base_prefix, sys.base_exec_prefix, sys.prefix)}
    found: list[str] = []
    for path in sorted(paths):
        if not any(path == outer or path.startswith(outer + "/") for outer in (*found, "/usr")):
            found.append(path)
    return found


def _try_box() -> None:
    path = f"{BOXES}/probe"
    os.mkdir(path)
    fresh_box(path, 0)
    kernel.unmount(path)
    os.rmdir(path)


def _probe_uid(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # It must find what the zygote has not imported yet.
    with open(os.path.join(os.path.dirname(os.__file__), "this.py")):
        pass


def _enter_filter() -> kernel.Filter:
    """Returns the part that is left to each program."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    program = kernel.Filter(filter.build())
    kernel.install_filter(program.address)
    return kernel.Filter(filter.build_session())


def _probe_landlock() -> None:
    if kernel.landlock_abi() < 1:
        raise OSError("the kernel has no Landlock, or it is not switched on")


def _in_child(step: Callable[[], object]) -> None:
    """Raises OSError if it fails there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            step()
        except BaseException as error:
            os.write(write, str(error).encode()[:500] or b"failed")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        message = file.read().decode()
    os.waitpid(pid, 0)
    if message:
        raise OSError(message)
