"""The seccomp filter of a program: what is denied, and as what.

Everything else is allowed. A program is a script as any; what is denied here reaches for the kernel's administration,
for other processes, for the network, or for parts of the kernel that scripts do not use and attackers do.
"""

import errno
import struct

_DENIED = {
    # other processes
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
    "process_madvise": 440, "process_mrelease": 448, "move_pages": 279, "migrate_pages": 256,
    # mounts and namespaces
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "open_tree_attr": 467, "name_to_handle_at": 303, "open_by_handle_at": 304,
    # the network, and sockets by name; socketpair stays
    "socket": 41, "connect": 42, "bind": 49, "listen": 50,
    # System V IPC and message queues: shared by all with the same namespace
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241,
    # the kernel's administration
    "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
    "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163, "settimeofday": 164, "clock_settime": 227,
    "adjtimex": 159, "clock_adjtime": 305, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "quotactl": 179, "quotactl_fd": 443, "syslog": 103, "vhangup": 153, "lookup_dcookie": 212, "modify_ldt": 154,
    # large surfaces
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "add_key": 248, "request_key": 249, "keyctl": 250, "fanotify_init": 300,
    "inotify_init": 253, "inotify_init1": 294, "memfd_secret": 447, "personality": 135, "nfsservctl": 180,
    "seccomp": 317, "landlock_create_ruleset": 444,
}  # fmt: skip
_CLONE, _CLONE3, _SETSID = 56, 435, 112
_NAMESPACES = 0x02000000 | 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X86_64 = 0xC000003E
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16


def build() -> bytes:
    """The filter as the kernel takes it. x86-64 only: every other way into the kernel ends the program."""
    refuse = _RETURN, 0, 0, _ERRNO | errno.EPERM
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # The x32 calls have the same numbers with a bit set.
        (_JUMP_GREATER_EQUAL, 0, 1, 0x40000000),
        refuse,
        # Its flags are out of the filter's reach; the C library falls back to clone.
        (_JUMP_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_JUMP_EQUAL, 0, 4, _CLONE),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_ANY_BIT, 0, 1, _NAMESPACES),
        refuse,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return _pack(instructions + _search(sorted(_DENIED.values()), refuse))


def build_session() -> bytes:
    """What a program gets beside, once it has its session: it stays in it, and so in its share of the CPU."""
    # Answered as done.
    refuse = (_JUMP_EQUAL, 0, 1, _SETSID), (_RETURN, 0, 0, _ERRNO)
    return _pack([(_LOAD, 0, 0, _NUMBER), *refuse, (_RETURN, 0, 0, _ALLOW)])


def _pack(instructions: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def _search(denied: list[int], refuse: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """A tree: the kernel tries the filter on every number when it is installed, so that its depth is paid there."""
    if len(denied) > 2:
        half = len(denied) // 2
        below = _search(denied[:half], refuse)
        return [(_JUMP_GREATER_EQUAL, len(below), 0, denied[half]), *below, *_search(denied[half:], refuse)]
    tests = [test for number in denied for test in ((_JUMP_EQUAL, 0, 1, number), refuse)]
    return [*tests, (_RETURN, 0, 0, _ALLOW)]
