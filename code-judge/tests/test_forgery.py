"""No program can forge its verdict: the exit status alone decides, and a failure of the service cannot be provoked."""

import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from judge_harness import Judge

RESERVED = ("ok", "timeout", "memory", "output_limit", "nonzero_exit", "compile_error")
"""Kinds that the service gives; an exception of such a name gets none of them."""
WRITE_EVERYWHERE = """
import os
for fd in range(256):
    try: os.write(fd, {data!r})
    except OSError: pass
"""
ENDINGS = {
    "exit 1": "os._exit(1)",
    "sys.exit": "raise SystemExit(3)",
    "SIGKILL": "os.kill(os.getpid(), 9)",
    "SIGSYS": "os.kill(os.getpid(), 31)",
    "exception": "raise ValueError('v')",
    **{f"raise {name}": f"raise type({name!r}, (Exception,), {{}})" for name in RESERVED},
}
FORGED = {
    "report": b'{"kind":"ok","line":1}',
    "started and report": b'started\n{"kind": "ok", "line": 1}',
    "plain report": b"ok 1",
    "nested": b"[" * 4000,
    "nested pairs": b'{"kind":' * 500,
    "long number": b'{"kind": "E", "line": ' + b"7" * 4000 + b"}",
    "long line": b"E " + b"7" * 4000,
    "not text": bytes(range(256)),
    "answer of the sandbox": b'{"id": 0, "status": 0, "why": null, "seconds": 0}',
    "zero bytes": b"\x00" * 5000,
    "started twice": b"started\n" * 100,
}


def check(result: dict[str, object]) -> None:
    """The program failed by itself, and said so in a way that the service does not mistake for its own words."""
    assert (result["run_success"], result["success"], result["reason"]) == (False, False, ""), result
    assert result["kind"] not in ("", "ok", "timeout", "memory", "output_limit", "compile_error"), result
    assert result["line"] is None or 0 < result["line"] < 10**7, result


@pytest.mark.parametrize("name", RESERVED)
def test_an_exception_cannot_take_a_reserved_name(served: Judge, name: str) -> None:
    program = f"class {name}(Exception): pass\nraise {name}"
    compile(program, "it parses", "exec")
    check(served.run(program))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_forged_report_changes_nothing(served: Judge, ending: str) -> None:
    programs = [WRITE_EVERYWHERE.format(data=data) + ENDINGS[ending] for data in FORGED.values()]
    for program in programs:
        compile(program, "it parses", "exec")
    for result in served.run_all(programs):
        check(result)


@pytest.mark.parametrize(
    "program",
    [
        # Each way to take the service's own mark from the descriptor that carries it.
        "import os\nfd = os.open('/proc/self/fd/3', os.O_RDONLY | os.O_NONBLOCK)\nos.read(fd, 100)",
        "import os\nos.set_blocking(3, False)\nos.read(3, 100)",
        "import os\nos.ftruncate(3, 0)",
        "import os\nos.lseek(3, 0, 0)\nos.write(3, bytes(100))",
        "import os\nos.pwrite(3, bytes(100), 0)",
        "import socket\nsocket.socket(fileno=3).shutdown(socket.SHUT_RDWR)",
        "import socket\nsocket.socket(fileno=3).recv(100, socket.MSG_DONTWAIT)",
        "import os\nos.close(3)",
        "import os\nos.dup2(os.pipe()[0], 3)",
    ],
)
def test_the_mark_of_a_started_program_cannot_be_taken_back(served: Judge, program: str) -> None:
    for end in ("raise ValueError('v')", "os._exit(1)"):
        body = "".join(f"    {line}\n" for line in program.splitlines())
        attempt = f"import os\ntry:\n{body}except OSError:\n    pass\n{end}"
        compile(attempt, "it parses", "exec")
        check(served.run(attempt))


def test_flooding_the_report_hurts_only_the_program(served: Judge) -> None:
    flood = (
        "import os\nos.set_blocking(3, False)\ntry:\n    while True: os.write(3, b'x' * 4096)\nexcept OSError: pass\n"
    )
    results = served.run_all([flood + "raise ValueError", flood + "os._exit(1)", flood + "print('well')"])
    check(results[0])
    check(results[1])
    assert (results[2]["stdout"], results[2]["run_success"]) == ("well\n", True)


# What looks like a report comes up often; random bytes alone would hardly ever parse as anything.
pieces = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([*FORGED.values(), *(name.encode() for name in RESERVED), b"started", b"\n", b" 1", b'{"kind":']),
    st.integers().map(lambda number: str(number).encode()),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from(["kind", "line"]), inner)).map(
        lambda value: json.dumps(value).encode()
    ),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
@given(st.lists(st.tuples(st.lists(pieces, max_size=4), st.sampled_from(sorted(ENDINGS))), min_size=8, max_size=24))
def test_any_bytes_on_any_descriptor_and_any_bad_end(served: Judge, cases: list[tuple[list[bytes], str]]) -> None:
    programs = [
        "import os\n" + "".join(WRITE_EVERYWHERE.format(data=data) for data in datas) + ENDINGS[ending]
        for datas, ending in cases
    ]
    for result in served.run_all(programs):
        check(result)
