"""The seccomp filters of a program: which system calls are refused, and with which error.

Everything else is allowed, as to any script. What is refused reaches for the kernel's administration, for other
processes, for the network, for memory that belongs to no process, or for parts of the kernel that scripts do not use
and attackers do.
"""

import errno
import struct

from code_judge.sandbox.calls import MACHINES, machine, number

_REFUSED = """
    ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease move_pages migrate_pages
    mount umount2 pivot_root chroot unshare setns open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    open_tree_attr name_to_handle_at open_by_handle_at socket connect bind listen
    shmget shmat shmctl semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink
    init_module delete_module finit_module kexec_load kexec_file_load reboot swapon swapoff acct settimeofday
    clock_settime adjtimex clock_adjtime sethostname setdomainname iopl ioperm quotactl quotactl_fd syslog vhangup
    lookup_dcookie modify_ldt bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register add_key
    request_key keyctl fanotify_init inotify_init inotify_init1 memfd_secret personality nfsservctl seccomp
    landlock_create_ruleset
"""
_ABSENT, _ABSENT_IN_SESSION = "memfd_create", "clone3"
"""Answered as by a kernel without them; libraries have other ways. Memory files are memory that no process needs to
have mapped, so that a limit from outside could not see it. clone3's flags are out of the filter's reach; the template
needs the call to fork into a control group."""
_NAMESPACES = 0x02000000 | 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_AF_UNIX = 1
_F_SETOWN, _F_SETOWN_EX, _FIOSETOWN, _SIOCSPGRP, _TIOCSTI = 8, 15, 0x8901, 0x8902, 0x5412
_PRIO_PROCESS = 0

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ASK, _KILL, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x80000000, 0x00050000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
"""The x32 calls of x86-64 have the same numbers with this bit set."""

Instruction = tuple[int, int, int, int]
Rules = dict[int, list[Instruction]]
"""By number of a system call, what to do then; every path ends in a return."""


def build(on: str | None = None) -> bytes:
    """The filter of all programs, as the kernel takes it. Raises OSError on a machine that it does not know."""
    on = on or machine()
    if on not in MACHINES:
        raise OSError(f"no system call numbers are known for {on}, only for {', '.join(MACHINES)}")
    rules: Rules = {}
    _add(rules, on, _REFUSED, _refuse())
    _add(rules, on, _ABSENT, _refuse(errno.ENOSYS))
    _add(rules, on, "clone", [_load_argument(0), (_JUMP_ANY_BIT, 0, 1, _NAMESPACES), *_refuse(), *_allow()])
    _add(rules, on, "socketpair", _where_argument(0, (_AF_UNIX,), _allow(), _refuse()))
    # Of another process a program may not even set limits.
    _add(rules, on, "prlimit64", _where_argument(0, (0,), _allow(), _refuse()))
    # Whom a descriptor sends its signals to.
    _add(rules, on, "fcntl", _where_argument(1, (_F_SETOWN, _F_SETOWN_EX), _refuse(), _allow()))
    _add(rules, on, "ioctl", _where_argument(1, (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI), _refuse(), _allow()))
    return _pack(
        [
            (_LOAD, 0, 0, _ARCHITECTURE),
            (_JUMP_EQUAL, 1, 0, _ARCHITECTURES[on]),
            (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, _NUMBER),
            (_JUMP_GREATER_EQUAL, 0, 1, _X32),
            *_refuse(),
            *_search(sorted(rules), rules),
        ]
    )


def build_session(own_pid: int | None = None, on: str | None = None) -> bytes:
    """What a program gets besides, once it has its session: it stays in it, which is answered as done. And no clone3.

    own_pid: where neither the program's user nor Landlock keeps its signals from other programs, its process number.
    Then it may signal and schedule only its own first process and its group, not even its children.
    """
    on = on or machine()
    rules: Rules = {}
    _add(rules, on, "setsid", _refuse(0))
    _add(rules, on, _ABSENT_IN_SESSION, _refuse(errno.ENOSYS))
    if own_pid is not None:
        own = _where_argument(0, (0, own_pid), _allow(), _refuse())
        _add(rules, on, "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open", own)
        _add(rules, on, "sched_setaffinity sched_setscheduler sched_setparam sched_setattr", own)
        _add(rules, on, "pidfd_send_signal ioprio_set", _refuse())
        process = _where_argument(1, (0, own_pid), _allow(), _refuse())
        priority = [_load_argument(0), (_JUMP_EQUAL, 1, 0, _PRIO_PROCESS), *_refuse(), *process]
        _add(rules, on, "setpriority", priority)
    return _pack([(_LOAD, 0, 0, _NUMBER), *_search(sorted(rules), rules)])


def build_guard(on: str | None = None) -> bytes:
    """Of a session's processes: calls that signal others are left to the warden's decision, see guard.py. A process may
    always begin a group of its own."""
    on = on or machine()
    ask = [(_RETURN, 0, 0, _ASK)]
    rules: Rules = {}
    _add(rules, on, "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open", ask)
    _add(rules, on, "setpgid", _where_argument(1, (0,), _allow(), ask))
    # A descriptor may be older than the state that it names.
    _add(rules, on, "pidfd_send_signal", _refuse())
    return _pack([(_LOAD, 0, 0, _NUMBER), *_search(sorted(rules), rules)])


def _add(rules: Rules, on: str, calls: str, then: list[Instruction]) -> None:
    for call in calls.split():
        if (found := number(call, on)) is not None:
            rules[found] = then


def _refuse(error: int = errno.EPERM) -> list[Instruction]:
    return [(_RETURN, 0, 0, _ERRNO | error)]


def _allow() -> list[Instruction]:
    return [(_RETURN, 0, 0, _ALLOW)]


def _load_argument(place: int) -> Instruction:
    """The lower half, which is all of an int."""
    return _LOAD, 0, 0, _ARGUMENTS + 8 * place


def _where_argument(
    place: int, values: tuple[int, ...], then: list[Instruction], otherwise: list[Instruction]
) -> list[Instruction]:
    """`then` and `otherwise`: one instruction each, a return."""
    tests = [(_JUMP_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_load_argument(place), *tests, *otherwise, *then]


def _pack(instructions: list[Instruction]) -> bytes:
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def _search(numbers: list[int], rules: Rules) -> list[Instruction]:
    """A tree: the kernel tries the filter on every number when it is installed, so that its depth is paid there."""
    if len(numbers) > 2:
        half = len(numbers) // 2
        below = _search(numbers[:half], rules)
        if len(below) < 256:
            return [(_JUMP_GREATER_EQUAL, len(below), 0, numbers[half]), *below, *_search(numbers[half:], rules)]
    tests = [step for number in numbers for step in ((_JUMP_EQUAL, 0, len(rules[number]), number), *rules[number])]
    return [*tests, *_allow()]
