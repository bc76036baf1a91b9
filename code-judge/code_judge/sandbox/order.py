"""What the warden tells the template about a program to start, and which descriptors go with it.

Standard library only: the zygote imports it.
"""

from typing import Any, NamedTuple

from code_judge.sandbox.box import Box

FIRST_FD = 4
ORDER_BYTES, ORDER_FDS = 1 << 16, 9
_ADDRESS_SPACE_TIMES, _LEAST_ADDRESS_SPACE = 16, 8 << 30
"""Address space that is not used costs nothing, so a program may have much of it. More than this is taken for a
mistake, and meets a MemoryError."""
_KEPT = {"ruleset", "binary", "artefact", "files"}


class Order(NamedTuple):
    """memory: bytes of address space. path, uid: of the box. command: of the compiler. The others are descriptors, as
    numbers in the template. source: of a script or for the compiler. binary: to execute instead. artefact: for what is
    compiled. code: of a script that was compiled before. group: the control group to start in. files: to put into the
    folder (parcel.py). The first `kept` of them stay open until the program starts."""

    echo: bool
    memory: int
    cpu_seconds: int
    path: str
    uid: int | None
    command: list[str]
    stdin: int
    stdout: int
    stderr: int
    status: int
    ruleset: int | None
    source: int | None
    binary: int | None
    artefact: int | None
    group: int | None
    kept: int
    files: int | None = None
    code: int | None = None


PATH, GROUP = Order._fields.index("path"), Order._fields.index("group")


def address_space(memory: int) -> int:
    """Bytes that a program may map that may use `memory`."""
    return max(_ADDRESS_SPACE_TIMES * memory, _LEAST_ADDRESS_SPACE)


def make_order(command: dict[str, Any], fds: list[int], box: Box) -> tuple[Order, list[int]]:
    """The order, and the descriptors to send with it, those that stay open first."""
    first = "binary" if command["do"] == "execute" else "source"
    # What comes last may be the warden's: see Warden._start.
    given = dict(zip((first, "stdin", "stdout", "stderr", "status", *command["more"]), fds, strict=True))
    given.pop("fetch", None)
    if box.ruleset is not None:
        given["ruleset"] = box.ruleset
    if box.group is not None:
        given["group"] = box.group.fd
    kept = given.keys() & _KEPT
    names = [*kept, *(given.keys() - kept)]
    there = {name: FIRST_FD + place for place, name in enumerate(names)}
    order = Order(
        echo=command["echo"],
        memory=address_space(command["memory"]),
        cpu_seconds=int(command["cpu"]) + 1,
        path=box.path,
        uid=box.uid,
        command=command["command"],
        stdin=there["stdin"],
        stdout=there["stdout"],
        stderr=there["stderr"],
        status=there["status"],
        ruleset=there.get("ruleset"),
        source=there.get("source"),
        binary=there.get("binary"),
        artefact=there.get("artefact"),
        group=there.get("group"),
        kept=len(kept),
        files=there.get("files"),
        code=there.get("code"),
    )
    return order, [given[name] for name in names]
