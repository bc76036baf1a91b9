"""System calls that Python does not offer, each raising OSError.

Standard library only: the zygote imports it.
"""

import contextlib
import ctypes
import os
import struct

from code_judge.sandbox.calls import machine, own_number

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 36, 38, 22

_SYS_PIVOT_ROOT, _SYS_MOUNT_SETATTR = map(own_number, ("pivot_root", "mount_setattr"))
_SYS_CLONE, _SYS_CLONE3 = map(own_number, ("clone", "clone3"))
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = map(
    own_number, ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
)
_SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, _SECCOMP_NEW_LISTENER = own_number("seccomp"), 1, 8
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SIGCHLD = 17
_CLONE_PARENT, _CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x8000, 0x200000, 0x1000000
_CLONE_INTO_CGROUP = 0x200000000
_PR_GET_TID_ADDRESS, _PR_CAPBSET_DROP, _CAPABILITY_VERSION = 40, 24, 0x20080522
_SIGACTION, _SA_NOCLDSTOP = struct.Struct("@P128siP"), 1
"""handler, mask, flags and restorer, as in the C libraries of Linux."""

_LANDLOCK_ABI = {"5.10": 0, "5.15": 1, "6.1": 2, "6.8": 4}
_imitated = os.environ.get("CODE_JUDGE_IMITATE_KERNEL")
"""For tests: do without what that version of Linux does not have."""

FINE_TIMES = _imitated is None and tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 13)
"""Two changes of a file that is looked at in between have different times, however fast they follow each other. Before,
those within one tick of the clock have the same."""

_libc = ctypes.CDLL(None, use_errno=True)
# Keeps the interpreter's lock during the call.
_libc_with_lock = ctypes.PyDLL(None, use_errno=True)
# Where the C library keeps the thread's number, for the kernel to write a fork's; null where the kernel does not tell.
_own_number = ctypes.c_void_p()
_clone_arguments = (None, _own_number) if machine() == "aarch64" else (_own_number, None)
# What forks call: an attribute that is looked up for the first time is noted down, on a page that is copied for it.
_prctl, _capset, _syscall, _syscall_with_lock = _libc.prctl, _libc.capset, _libc.syscall, _libc_with_lock.syscall
_prctl.argtypes = ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong
_prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(_own_number), None, 0, 0)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int = 0, pointer: int | None = None) -> None:
    _check(_prctl(option, value, pointer, 0, 0), "prctl")


def drop_capabilities() -> None:
    """All of this process's capabilities; with no_new_privs it cannot get any again."""
    header, none = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _check(_capset(header, none), "capset")


def drop_bounding_set() -> None:
    """No program that is executed from here on can have a capability that this process does not have."""
    with contextlib.suppress(OSError):
        for capability in range(64):
            prctl(_PR_CAPBSET_DROP, capability)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()), target
    )


def bind_read_only(source: str, target: str) -> None:
    """Without set-uid programs and devices. Only adds restrictions, as a user namespace requires."""
    mount(source, target, flags=MS_BIND | MS_REC)
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV, 0, 0, 0)
    buffer = ctypes.create_string_buffer(attributes)
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, buffer, ctypes.c_size_t(len(attributes))
    )
    _check(result, f"mount_setattr {target}")


def bind_device(source: str, target: str) -> None:
    mount(source, target, flags=MS_BIND)


def unmount(target: str) -> None:
    """Gone from sight at once; what still uses it keeps it until it ends."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def enter_root(folder: str) -> None:
    """Make `folder`, which is a mount, the root, and let go of the old one."""
    os.chdir(folder)
    _check(_libc.syscall(_SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def landlock_abi() -> int:
    """0 where the kernel has no Landlock."""
    found = max(0, int(_libc.syscall(_SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)))
    return found if _imitated is None else min(found, _LANDLOCK_ABI[_imitated])


def landlock_ruleset(fs: int, net: int, scoped: int, *, abi: int) -> int:
    """A file descriptor. The arguments are the rights that are denied unless a rule gives them."""
    attributes = struct.pack("QQQ", fs, net, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    return _check(
        _libc.syscall(_SYS_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock_create_ruleset"
    )


def landlock_allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, fd)
        _check(_libc.syscall(_SYS_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
    finally:
        os.close(fd)


def landlock_restrict(ruleset: int) -> None:
    _check(_syscall(_SYS_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")


class Filter(ctypes.Structure):
    """A seccomp program as the kernel takes it."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    def __init__(self, program: bytes) -> None:
        self._memory = ctypes.create_string_buffer(program, len(program))
        super().__init__(len(program) // 8, ctypes.addressof(self._memory))
        self.address = ctypes.addressof(self)


def install_filter(address: int) -> None:
    """Of a Filter, which must still be there. For the calling thread and what it starts."""
    prctl(PR_SET_SECCOMP, 2, address)


def install_guard(program: bytes) -> int | None:
    """A filter that asks, for this process and its forks. Returns the descriptor on which it asks; None where the
    kernel cannot (before Linux 5.5)."""
    if _imitated is not None:
        return None
    filter = Filter(program)
    fd = int(_syscall(_SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, _SECCOMP_NEW_LISTENER, ctypes.byref(filter)))
    return fd if fd >= 0 else None


def ignore_stops() -> None:
    """No SIGCHLD for children that are stopped or go on, only for those that end. Call it after a handler is set."""
    action = ctypes.create_string_buffer(_SIGACTION.size)
    _check(_libc.sigaction(_SIGCHLD, None, action), "sigaction")
    handler, mask, flags, restorer = _SIGACTION.unpack(action.raw)
    changed = _SIGACTION.pack(handler, mask, flags | _SA_NOCLDSTOP, restorer)
    _check(_libc.sigaction(_SIGCHLD, changed, None), "sigaction")


def join_namespace(fd: int) -> None:
    """With a mount namespace come its root and, as the current folder, this root."""
    _check(_libc.setns(fd, 0), "setns")


def imitated() -> bool:
    """Whether a test asks for an older kernel."""
    return _imitated is not None


def protect(start: int, length: int, rights: int) -> None:
    _check(_libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), rights), "mprotect")


def advise(start: int, length: int, advice: int) -> None:
    _check(_libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice), "madvise")


def fork_sibling(group: int | None = None) -> int:
    """As `fork`, but the new process is a child of this one's parent. group: see fork_into."""
    if group is not None:
        return fork_into(group, _CLONE_PARENT)
    flags = _CLONE_PARENT | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | _SIGCHLD
    # The last two arguments are in another order on each machine; the one that is not the number is not used.
    return _check(_syscall_with_lock(_SYS_CLONE, flags, None, None, *_clone_arguments), "clone")


def fork_into(group: int, flags: int = 0) -> int:
    """As `fork`, but the new process begins in a control group, given by its folder's descriptor (Linux 5.7)."""
    flags |= _CLONE_INTO_CGROUP | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    # A sibling has its parent's signal.
    end = 0 if flags & _CLONE_PARENT else _SIGCHLD
    arguments = struct.pack("11Q", flags, 0, _own_number.value or 0, 0, end, 0, 0, 0, 0, 0, group)
    return _check(_syscall_with_lock(_SYS_CLONE3, arguments, ctypes.c_size_t(len(arguments))), "clone3")


def fork() -> int:
    """As os.fork, for a process with one thread: without the interpreter's own work before and after, which costs as
    much again. What of it a child needs is the caller's to do: seed its generators."""
    return _check(int(_libc_with_lock.fork()), "fork")
