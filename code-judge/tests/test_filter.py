"""The seccomp filters, run by an interpreter of the kernel's instructions, for each machine."""

import errno
import struct

import pytest

from code_judge.sandbox import calls, filter

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def answer(program: bytes, number: int, *arguments: int, architecture: int) -> int:
    """What the kernel would do: classic BPF over struct seccomp_data."""
    data = struct.pack("IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("HBBI", program))
    place = accumulator = 0
    while True:
        code, true, false, value = instructions[place]
        place += 1
        if code == 0x20:
            accumulator = struct.unpack_from("I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            place += true if test else false


@pytest.mark.parametrize("on", calls.MACHINES)
def test_what_is_refused_and_what_is_not(on: str) -> None:
    program = filter.build(on)

    def ask(call: str, *arguments: int) -> int:
        number = calls.number(call, on)
        assert number is not None
        return answer(program, number, *arguments, architecture=ARCHITECTURES[on])

    refused = ERRNO | errno.EPERM
    named = filter._REFUSED.split()
    known = {number for call in calls._NUMBERS if (number := calls.number(call, on)) is not None}
    for call in named:
        if calls.number(call, on) is not None:
            assert ask(call) == refused, call
    assert ask("memfd_create") == ERRNO | errno.ENOSYS
    assert ask("clone", 17) == ALLOW
    assert ask("clone", 0x10000000 | 17) == refused
    assert ask("socketpair", 1, 1) == ALLOW
    assert {ask("socketpair", family, 1) for family in (2, 10, 16, 30, 40)} == {refused}
    assert ask("prlimit64", 0, 7) == ALLOW
    assert {ask("prlimit64", pid, 7) for pid in (1, 2, 300, 0xFFFFFFFF)} == {refused}
    assert {ask("fcntl", 1, command) for command in range(0, 8)} == {ALLOW}
    assert {ask("fcntl", 1, command) for command in (8, 15)} == {refused}
    assert ask("ioctl", 1, 0x5401) == ALLOW
    assert {ask("ioctl", 1, command) for command in (0x8901, 0x8902, 0x5412)} == {refused}
    # What no rule names is allowed: the tree has no holes and no overlaps.
    for number in range(600):
        if number not in known:
            assert answer(program, number, architecture=ARCHITECTURES[on]) == ALLOW, number
    assert answer(program, 0x40000000 | 39, architecture=ARCHITECTURES[on]) == refused
    assert answer(program, 39, architecture=0x40000003) == KILL


@pytest.mark.parametrize("on", calls.MACHINES)
def test_signals_stay_inside_where_nothing_else_keeps_them(on: str) -> None:
    def ask(program: bytes, call: str, *arguments: int) -> int:
        number = calls.number(call, on)
        assert number is not None
        return answer(program, number, *arguments, architecture=ARCHITECTURES[on])

    free, kept = filter.build_session(on=on), filter.build_session(77, on=on)
    refused = ERRNO | errno.EPERM
    for program in (free, kept):
        assert ask(program, "setsid") == ERRNO
        assert ask(program, "clone3") == ERRNO | errno.ENOSYS
    for call in ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "sched_setaffinity", "pidfd_open"):
        assert {ask(free, call, pid) for pid in (0, 1, 2, 77)} == {ALLOW}
        assert {ask(kept, call, pid) for pid in (0, 77)} == {ALLOW}
        assert {ask(kept, call, pid) for pid in (1, 2, 78, 0xFFFFFFFF, 0xFFFFFFFE)} == {refused}
    assert ask(kept, "setpriority", 0, 0) == ALLOW
    assert {ask(kept, "setpriority", *who) for who in ((0, 2), (1, 0), (2, 0), (2, 77))} == {refused}
    assert ask(kept, "pidfd_send_signal", 5) == refused


def test_the_numbers_are_this_machines_headers() -> None:
    import re
    from pathlib import Path

    headers = {
        "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        "aarch64": Path("/usr/include/asm-generic/unistd.h"),
    }
    for on, header in headers.items():
        if not header.exists():
            pytest.skip("the kernel's headers are not installed")
        found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
        there = {name: int(number) for name, number in found}
        for call in calls._NUMBERS:
            if call in there:
                assert calls.number(call, on) == there[call], (on, call)


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(OSError, match="riscv64"):
        filter.build("riscv64")
