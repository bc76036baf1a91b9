"""Files in and out of a submission: what comes in is there, what is asked for comes out, and nothing else does."""

import base64
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from judge_harness import Judge, judge
from redis_harness import api, needs_redis, redis_server, workers

from code_judge.client import JudgeClient
from code_judge.sandbox import parcel
from code_judge.wire import Case, Submission


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def decoded(files: dict[str, str]) -> dict[str, bytes]:
    return {name: base64.b64decode(content) for name, content in files.items()}


LARGE = os.urandom(3 << 20)
SUM = (
    "import os\n"
    "print(open('data/in.csv').read(), sorted(os.listdir('.')), sorted(os.listdir('data')))\n"
    "from data.helper import twice\nprint(twice(21))\n"
    "open('large.bin', 'wb').write(open('data/deep/large.bin', 'rb').read()[::-1])\n"
    "os.makedirs('out/plots')\nopen('out/plots/a.png', 'wb').write(b'\\x89PNG')\nopen('out/b.txt', 'w').write('ü')"
)
FILES = {
    "data/in.csv": b64(b"1,2\n"),
    "data/helper.py": b64(b"def twice(x): return 2 * x"),
    "data/deep/large.bin": b64(LARGE),
    "empty": "",
    "ünïcode": b64(b"\0\xff"),
}


def check_round_trip(it: Judge) -> None:
    result = it.run(SUM, files=FILES, fetch=["large.bin", "out/*", "empty", "nothing", "data"])
    first, second = result["stdout"].splitlines()[1:]
    assert first == " ['data', 'empty', 'solution.py', 'ünïcode'] ['deep', 'helper.py', 'in.csv']"
    assert second == "42"
    files = decoded(result["files"])
    assert files.pop("large.bin") == LARGE[::-1]
    assert files == {"out/plots/a.png": b"\x89PNG", "out/b.txt": "ü".encode(), "empty": b""}
    assert result["left_out"] == {"nothing": "No such file or directory", "data": "not a regular file"}


LEFT_OPEN = {
    "at the end": ("", b"x"),
    "by sys.exit": ("import sys; sys.exit(3)", b"x"),
    "by an exception": ("1 / 0", b"x"),
    "by a signal": ("import os; os.kill(os.getpid(), 9)", b""),
    "by os._exit": ("import os; os._exit(0)", b""),
}


@pytest.mark.parametrize("end", LEFT_OPEN)
def test_a_file_that_is_left_open_holds_what_python_leaves_in_it(served: Judge, end: str) -> None:
    code, content = LEFT_OPEN[end]
    for opened in ("f = open('o', 'w')", "def g(): global f; f = open('o', 'w')\ng()"):
        result = served.run(f"{opened}\nf.write('x')\n{code}", fetch=["o"])
        assert decoded(result["files"]) == {"o": content}


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.parametrize(("end", "content"), [("return 0;", b"x"), ("exit(3);", b"x"), ("_exit(0);", b"")])
def test_so_it_is_in_cpp(served: Judge, end: str, content: bytes) -> None:
    source = (
        '#include <fstream>\n#include <cstdlib>\n#include <unistd.h>\nstd::ofstream f("o");\n'
        f"int main() {{ f << 'x'; {end} }}"
    )
    assert decoded(served.run(source, type="cpp", fetch=["o"])["files"]) == {"o": content}


def test_in_and_out(served: Judge) -> None:
    check_round_trip(served)
    # Also by /judge and in batches; keys that were not asked for are not there.
    body = {"type": "python", "solution": "open('o', 'w').write(open('i').read())", "files": {"i": b64(b"x")}}
    public = {"sub_id", "success", "run_success", "cost", "reason"}
    plain = {"X-Code-Judge-Extra": "0"}
    assert set(served.http.post("/judge", json=body, headers=plain).json()) == public
    with_files = served.http.post("/judge", json={**body, "fetch": ["o"]}, headers=plain).json()
    assert set(with_files) == public | {"files", "left_out"}
    assert decoded(with_files["files"]) == {"o": b"x"}
    first, second = served.post("/judge/batch", submissions=[{**body, "fetch": ["*"]}, body])["results"]
    assert decoded(first["files"])["o"] == b"x"
    assert "files" not in second


@needs_redis
def test_through_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri):
        check_round_trip(it)


def test_each_test_has_the_files_and_a_folder_of_its_own(served: Judge) -> None:
    source = "x = input()\nold = open('f').read()\nopen('f', 'w').write(old + x)\nprint(old)"
    tests = [{"input": str(i), "expected_output": "-"} for i in range(4)]
    result = served.post("/run", type="python", solution=source, tests=tests, files={"f": b64(b"-")}, fetch=["f"])
    assert result["success"], result
    assert [decoded(one["files"]) for one in result["tests"]] == [{"f": b"-%d" % i} for i in range(4)]


def test_cpp_has_them_when_it_is_compiled_and_when_it_runs(served: Judge) -> None:
    source = (
        '#include "own/value.h"\n#include <fstream>\n#include <iostream>\nint main() {\n'
        'std::ifstream in("in.txt"); int x; in >> x; std::ofstream("out.txt") << x * VALUE; }'
    )
    files = {"own/value.h": b64(b"#define VALUE 6\n"), "in.txt": b64(b"7")}
    result = served.post("/run", type="cpp", solution=source, files=files, fetch=["out.txt"])
    assert (result["kind"], decoded(result["files"])) == ("ok", {"out.txt": b"42"}), result
    wrong = served.post("/run", type="cpp", solution="int main() { x }", files=files, fetch=["out.txt"])
    assert (wrong["kind"], wrong["files"]) == ("compile_error", None)


def test_what_a_program_left_comes_whatever_ended_it(served: Judge) -> None:
    write = "open('o', 'w').write('so far')\n"
    for end, kind in (
        ("1/0", "ZeroDivisionError"),
        ("while True: pass", "timeout"),
        ("print('x' * (1 << 22))", "output_limit"),
        ("import os; os.kill(os.getpid(), 9)", "nonzero_exit"),
        ("import os, time\nif os.fork(): os._exit(0)\nwhile True: time.sleep(0.01); open('o', 'a').write('')", "ok"),
    ):
        result = served.run(write + end, fetch=["o"])
        assert (result["kind"], decoded(result["files"])) == (kind, {"o": b"so far"})


HIDDEN = {
    "a link out": ("import os; os.symlink('/etc/passwd', 'o')", "a symbolic link"),
    "a link to what the fetching process is": ("import os; os.symlink('/proc/self/environ', 'o')", "a symbolic link"),
    "a link within": ("import os; open('x', 'w').write('x'); os.symlink('x', 'o')", "a symbolic link"),
    "a folder that is a link": ("import os; os.symlink('/etc', 'd')", None),
    "a pipe": ("import os; os.mkfifo('o')", "not a regular file"),
    "a device": ("import os; os.symlink('/dev/zero', 'o')", "a symbolic link"),
    "a folder": ("import os; os.mkdir('o')", "not a regular file"),
    "a file that nobody may read": ("import os; open('o', 'w').write('x'); os.chmod('o', 0)", "Permission denied"),
    "a socket": (
        "import os, stat\ntry: os.mknod('o', stat.S_IFSOCK)\nexcept OSError: os.mkfifo('o')",
        None,
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_only_regular_files_of_the_folder_come(served: Judge, name: str) -> None:
    source, why = HIDDEN[name]
    result = served.run(source, fetch=["o", "d/passwd", "*"])
    assert result["kind"] == "ok", result
    assert set(result["files"]) <= {"solution.py", "x"}
    if why is not None:
        assert result["left_out"]["o"] == why
    assert "o" in result["left_out"] or name == "a folder that is a link"
    assert "d/passwd" in result["left_out"]


def test_a_device_cannot_be_made(served: Judge) -> None:
    result = served.run("import os\nos.mknod('o', 0o20666, os.makedev(1, 5))", fetch=["o"])
    assert (result["kind"], result["files"]) == ("PermissionError", {})


def test_too_much_is_left_out_and_said(served: Judge) -> None:
    with judge(MAX_WORKERS=2, MAX_FILES_SIZE=1000) as it:
        result = it.run(
            "open('a', 'w').write('x' * 600)\nopen('b', 'w').write('x' * 600)\nopen('c', 'w').write('x' * 300)\n"
            "f = open('sparse', 'wb')\nf.truncate(50 << 20)",
            fetch=["a", "b", "c", "sparse"],
        )
        assert {name: len(content) for name, content in decoded(result["files"]).items()} == {"a": 600, "c": 300}
        assert set(result["left_out"]) == {"b", "sparse"}
        assert "MAX_FILES_SIZE" in result["left_out"]["b"]
        # What comes in has the same limit, of each submission.
        refused = it.http.post("/run", json={"type": "python", "solution": "1", "files": {"a": b64(bytes(1001))}})
        assert refused.status_code == 413
        assert "MAX_FILES_SIZE" in refused.json()["detail"]
        batch = [{"type": "python", "solution": "1", "files": {"a": b64(bytes(1000))}}] * 3
        assert [one["success"] for one in it.post("/judge/batch", submissions=batch)["results"]] == [True] * 3
    many = "for i in range(3000): open(f'f{i}', 'w')"
    result = served.run(many, fetch=["f*"])
    assert len(result["files"]) == parcel.MOST_FETCHED
    assert result["left_out"] == {"*": "there are more than 1000 files"}


def test_names_that_are_no_text_and_folders_without_end(served: Judge) -> None:
    source = (
        "import os\nopen(b'bad\\xff', 'w').write('x')\nopen('good\\n', 'w').write('y')\n"
        "try:\n    for _ in range(200):\n        os.mkdir('d'); os.chdir('d')\n"
        "    open('deep', 'w')\nexcept OSError: pass"
    )
    result = served.run(source, fetch=["*"])
    assert decoded(result["files"]) == {"good\n": b"y", "solution.py": source.encode()}
    assert result["left_out"] == {"bad\ufffd": "its name is not UTF-8"} or "bad?" in result["left_out"]


def test_the_next_program_sees_none_of_them(served: Judge) -> None:
    """In as many turns as there are slots, and also where the program has only read them."""
    secret = {"secret/a": b64(b"secret"), "b": b64(b"secret")}
    look = "import os\nprint(sorted(name for _, names, files in os.walk('.') for name in names + files))"
    for solution in ("print(open('b').read())", "import os; os.remove('b')", "1/0"):
        with_files = [{"type": "python", "solution": solution, "files": secret}] * 16
        served.post("/run/batch", submissions=with_files)
        assert {one["stdout"] for one in served.run_all([look] * 32)} == {"['solution.py']\n"}
        # Nor can one fetch what another has.
        fetched = served.post("/run/batch", submissions=[{"type": "python", "solution": "1", "fetch": ["*"]}] * 16)
        assert {tuple(one["files"]) for one in fetched["results"]} == {("solution.py",)}


def test_files_count_as_memory() -> None:
    with judge(MAX_MEMORY=64, MAX_WORKERS=2, MAX_FILES_SIZE=48 << 20) as it:
        # Every page is written, and no copy of it is made on the way.
        source = "import time\nx = bytearray(48 << 20)\nx[::4096] = b'x' * (48 << 8)\ntime.sleep(1)\nprint(1)"
        assert it.run(source)["kind"] == "ok"
        assert it.run(source, files={"a": b64(bytes(40 << 20))})["kind"] == "memory"


def test_the_descriptors_of_files_are_closed(served: Judge) -> None:
    source = "import os\nprint(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    plain, given = served.run(source), served.run(source, files={"a": b64(b"x")}, fetch=["a"])
    assert given["stdout"] == plain["stdout"]


def many(count: int) -> dict[str, str]:
    return {f"f{i}": "" for i in range(count)}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"files": {"/etc/passwd": ""}}, "below the program's folder"),
        ({"files": {"../a": ""}}, "below the program's folder"),
        ({"files": {"a/../../b": ""}}, "below the program's folder"),
        ({"files": {"a//b": ""}}, "below the program's folder"),
        ({"files": {"./a": ""}}, "below the program's folder"),
        ({"files": {"": ""}}, "below the program's folder"),
        ({"files": {"a/": ""}}, "below the program's folder"),
        ({"files": {"a\0b": ""}}, "below the program's folder"),
        ({"files": {"a" * 256: ""}}, "too long"),
        ({"files": {"a/" * 20 + "a": ""}}, "too long"),
        ({"files": {("a" * 200 + "/") * 6 + "a": ""}}, "too long"),
        ({"files": {"a": "", "a/b": ""}}, "is a file, and a folder of 'a/b'"),
        ({"files": {"solution.py": ""}}, "program's own file"),
        ({"files": {"main": ""}, "type": "cpp"}, "program's own file"),
        ({"files": {"main.cpp/a": ""}, "type": "cpp"}, "program's own file"),
        ({"files": {"a": "no base64!"}}, "base64"),
        ({"files": {"a": "YQ"}}, "base64"),
        ({"files": {"a": 7}}, "valid bytes"),
        ({"files": many(1001)}, "more than 1000"),
        ({"fetch": ["../*"]}, "below the program's folder"),
        ({"fetch": ["/etc/passwd"]}, "below the program's folder"),
        ({"fetch": ["a\0"]}, "below the program's folder"),
        ({"fetch": ["a"] * 101}, "more than 100"),
    ],
)
def test_what_cannot_be_a_file_is_422(served: Judge, more: dict[str, Any], message: str) -> None:
    reply = served.http.post("/run", json={"type": "python", "solution": "print(1)", **more})
    assert reply.status_code == 422
    assert message in reply.text


@pytest.mark.parametrize("key", ['"files": {"a\\ud800": ""}', '"fetch": ["a\\ud800"]'])
def test_a_lone_surrogate_is_422(served: Judge, key: str) -> None:
    reply = served.http.post("/run", content='{"type": "python", "solution": "1", %s}' % key)  # noqa: UP031
    assert reply.status_code == 422
    with pytest.raises(ValueError, match="UTF-8"):
        Submission(type="python", solution="1", files={"a\ud800": b""})


def test_the_most_files_fit(served: Judge) -> None:
    source = "import os\nprint(len(os.listdir('.')))"
    assert served.run(source, files=many(1000))["stdout"] == "1001\n"
    deep = {"/".join("abcdefghijklmno") + f"/f{i}": "" for i in range(1000)}
    assert served.run(source, files=deep)["stdout"] == "2\n"


def test_what_was_not_looked_through_to_the_end_is_told(tmp_path: Path) -> None:
    """Contents of a file are not taken for the table, which is written last."""
    fd = os.memfd_create("test")
    for content in (b"", b"\0" * 15, b"\0" * parcel.HEADER + b'[[], {"forged": ""}]', b"\xff" * 40):
        os.ftruncate(fd, 0)
        os.pwrite(fd, content, 0)
        assert parcel.answer(fd) == ({}, {"*": "the program's folder could not be looked through"})
    os.close(fd)


async def test_the_client_sends_and_gets_them(served: Judge) -> None:
    client = JudgeClient(served.url, deadline=30)
    one = Submission(
        type="python",
        solution="open('o', 'wb').write(open('i', 'rb').read() * 2)",
        files={"i": b"\xff\0"},
        fetch=["o"],
        tests=[Case(), Case()],
    )
    result = await client.run(one)
    assert result.files == {"o": b"\xff\0\xff\0"}
    assert [test.files for test in result.tests or ()] == [result.files] * 2
    await client.close()
