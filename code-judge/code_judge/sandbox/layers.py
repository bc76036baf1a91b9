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
    cgroup        memory, processes and CPU are counted and limited by the kernel for each program (groups.py)

What a program is started with is in user.py; killing all it started, and its limits, in warden.py.
Standard library only: the zygote imports it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from code_judge.sandbox import filter, kernel, users
from code_judge.sandbox.groups import Groups, make_groups
from code_judge.sandbox.root import BOXES, DEVICES, ETC, SYSTEM, interpreter, new_root, try_box

LAYERS = ("pid", "mount", "net", "ipc", "user", "tmpfs", "uid", "seccomp", "landlock", "no_new_privs", "cgroup")
FULL = tuple(layer for layer in LAYERS if layer not in ("user", "cgroup"))
"""What root can have on any host, and what CODE_JUDGE_REQUIRE_ISOLATION=full asks for."""
SCOPES_ABI = 6
"""Version of Landlock from which on it keeps signals and abstract sockets inside (Linux 6.12)."""
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE_RIGHTS = _WRITE_FILE | _READ_FILE


@dataclass(slots=True)
class Layers:
    """active: in force. missing: the others, with the reason. filter: what a program has to install of it itself.
    signals_inside: programs cannot signal one another.

    killer_uid: the first of the range of users, of the process that kills other users' processes; slots have the users
    after it.
    """

    active: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)
    filter: kernel.Filter | None = None
    signals_inside: bool = False
    killer_uid: int = 0
    groups: Groups | None = None

    def attempt(self, layer: str, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            self.missing[layer] = str(error)
        else:
            self.active.add(layer)


def leave_processes(*, for_sessions: bool) -> Layers:
    """First step, in the keeper: the next process it forks is the first of a namespace."""
    layers = Layers()
    if for_sessions:
        layers.missing["cgroup"] = "a session's states would share the group, and its end, with the cell that runs"
    else:
        layers.attempt("cgroup", lambda: _find_groups(layers))
    if os.geteuid() == 0:
        layers.missing["user"] = "the service is root; programs run as users of their own"
    else:
        layers.attempt("user", _become_root_of_a_namespace)
    # A process namespace without a /proc of its own would show us numbers that are not ours.
    layers.attempt("pid", lambda: _in_child(_try_own_proc))
    if "pid" in layers.active:
        kernel.unshare(kernel.CLONE_NEWPID)
    return layers


def enter(layers: Layers, folder: str) -> None:
    """Second step, in the zygote. `folder`: an empty one to build the root in."""
    layers.attempt("ipc", lambda: kernel.unshare(kernel.CLONE_NEWIPC))
    layers.attempt("net", lambda: kernel.unshare(kernel.CLONE_NEWNET))
    own_users = os.geteuid() == 0 and "user" not in layers.active
    layers.attempt("mount", lambda: new_root(folder, own_processes="pid" in layers.active, own_users=own_users))
    if "mount" in layers.active:
        layers.attempt("tmpfs", try_box)
    else:
        layers.missing["tmpfs"] = "needs the layer mount"
    if own_users:
        layers.attempt("uid", lambda: _find_users(layers))
    else:
        layers.missing["uid"] = "the service is not root"
    # The zygote starts no set-uid program either.
    layers.attempt("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
    layers.attempt("seccomp", lambda: _in_child(_enter_filter))
    layers.attempt("landlock", _probe_landlock)


def namespaces(layers: Layers) -> list[int]:
    """Descriptors of those that `enter` has made, and then of the root, for `join`."""
    made = {"ipc": ("ipc",), "net": ("net",), "mount": ("uts", "mnt")}
    paths = [f"/proc/self/ns/{name}" for layer, names in made.items() if layer in layers.active for name in names]
    return [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (*paths, "/")]


def join(active: list[str], made: list[int]) -> Layers:
    """Third step, in the template. `made`: see `namespaces`."""
    *joined, root = made
    for namespace in joined:
        kernel.join_namespace(namespace)
    if "mount" in active:
        # With the namespace comes its root, which is another one where the service runs in a chroot.
        os.fchdir(root)
        os.chroot(".")
    if "no_new_privs" in active:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_bounding_set()
    return Layers(
        set(active),
        filter=_enter_filter() if "seccomp" in active else None,
        signals_inside="uid" in active or ("landlock" in active and kernel.landlock_abi() >= SCOPES_ABI),
    )


def ruleset(layers: Layers, folder: str) -> int:
    """Of the slot whose programs own `folder`: a file descriptor for `kernel.landlock_restrict`."""
    abi = kernel.landlock_abi()
    everything = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    # TCP bind and connect from version 4 on; abstract sockets and signals from version 6 on.
    fd = kernel.landlock_ruleset(everything, 3 if abi >= 4 else 0, 3 if abi >= SCOPES_ABI else 0, abi=abi)
    if "mount" in layers.active:
        # Nothing is in this root that a program may not read, but for other programs' folders.
        for name in os.listdir("/"):
            if f"/{name}" != BOXES and not os.path.islink(f"/{name}"):
                kernel.landlock_allow(fd, f"/{name}", _READ)
    else:
        for path in (*SYSTEM, *ETC, *interpreter()):
            if os.path.exists(path):
                kernel.landlock_allow(fd, path, _READ if os.path.isdir(path) else _READ & ~_READ_DIR)
    for device in DEVICES:
        kernel.landlock_allow(fd, f"/dev/{device}", _DEVICE_RIGHTS)
    kernel.landlock_allow(fd, folder, everything)
    return fd


def _find_groups(layers: Layers) -> None:
    layers.groups = make_groups()


def _try_own_proc() -> None:
    kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    _in_child(lambda: kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC))


def _become_root_of_a_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _find_users(layers: Layers) -> None:
    layers.killer_uid = users.choose_here()
    _in_child(lambda: _probe_uid(layers.killer_uid))


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
    """Raises OSError if it fails there, or does not come to its end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            step()
            code = 0
        except BaseException as error:
            os.write(write, str(error).encode()[:500])
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        message = file.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise OSError(message or f"a process that tried it ended with {code}")
