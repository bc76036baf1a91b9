"""The memory that a program uses is limited, wherever it is; address space that it does not use is not."""

from collections.abc import Iterator

import pytest
from judge_harness import Judge, judge

LIMIT = 128  # MB


@pytest.fixture(scope="module")
def small() -> Iterator[Judge]:
    with judge(MAX_MEMORY=LIMIT, MAX_EXECUTION_TIME=20, MAX_WORKERS=4) as it:
        yield it


TOUCH = "def touch(m):\n    for i in range(0, len(m), 4096): m[i] = 1\n"
TOO_MUCH = {
    "private": "x = []\nwhile True: x.append(bytearray(b'x' * 10**6))",
    "at once": "x = bytearray(b'x' * (1 << 30))",
    "mappings": TOUCH + "import mmap\nx = []\nwhile True:\n    x.append(mmap.mmap(-1, 10**7)); touch(x[-1])",
    "no page mapped": (
        TOUCH + "import mmap, time\nx = []\nfor _ in range(60):\n    m = mmap.mmap(-1, 10**7)\n    touch(m)\n"
        "    m.madvise(mmap.MADV_DONTNEED)\n    x.append(m)\ntime.sleep(60)"
    ),
    "children": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        x = bytearray(b'x' * (50 << 20))\n"
        "        time.sleep(60)\ntime.sleep(60)"
    ),
    "orphans": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        if os.fork(): os._exit(0)\n"
        "        x = bytearray(b'x' * (50 << 20))\n        time.sleep(60)\n    else: os.wait()\ntime.sleep(60)"
    ),
    "threads": (
        "import threading, time\ndef f():\n    x = bytearray(b'x' * (20 << 20))\n    time.sleep(60)\n"
        "for _ in range(16): threading.Thread(target=f).start()"
    ),
    "folder and private": (
        "import time\nfor i in range(2): open(f'f{i}', 'wb').write(b'x' * (29 << 20))\n"
        "x = bytearray(b'x' * (90 << 20))\ntime.sleep(60)"
    ),
    "raised soft limit": (
        "import resource\ns, h = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (h, h))\nx = []\nwhile True: x.append(bytearray(b'x' * 10**6))"
    ),
    "another program": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import time; x = bytearray(b\"x\" * (1 << 28)); time.sleep(60)'])"
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_memory_counts_wherever_it_is(small: Judge, name: str) -> None:
    compile(TOO_MUCH[name], "it parses", "exec")
    if "folder" in name and "tmpfs" not in small.http.get("/status").json()["isolation"]:
        pytest.skip("this host does not give tmpfs")
    result = small.run(TOO_MUCH[name])
    assert (result["kind"], result["run_success"], result["reason"]) == ("memory", False, ""), result
    assert f"memory: more than {LIMIT} MB in use" in result["stderr"]
    assert result["cost"] < 15


def test_memory_files_are_refused(small: Judge) -> None:
    """They are memory that no process needs to have mapped."""
    solution = "import os\ntry: os.memfd_create('x')\nexcept OSError as e: print(e.errno)"
    assert small.run(solution)["stdout"] == "38\n"
    import_of_callbacks = (
        "import ctypes\nf = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)\nprint(f(2))"
    )
    assert small.run(import_of_callbacks)["stdout"] == "3\n"


ENOUGH = {
    "unused": "x = bytes(1 << 30)\nprint(len(x) >> 30)",
    "unused mappings": "import mmap\nx = [mmap.mmap(-1, 10**8, mmap.MAP_PRIVATE) for _ in range(10)]\nprint(1)",
    "stacks": (
        "import threading\nb = threading.Barrier(101)\nfor _ in range(100): threading.Thread(target=b.wait).start()\n"
        "b.wait()\nprint(1)"
    ),
    "numpy": "import numpy as np\nx = np.zeros((30000, 30000), dtype=np.int8)\nprint(x.shape[0] // 30000)",
    "shared by a fork": (
        "import os, time\nx = bytearray(90 << 20)\npids = []\nfor _ in range(4):\n    pid = os.fork()\n"
        "    if pid == 0:\n        time.sleep(0.6)\n        os._exit(0)\n    pids.append(pid)\n"
        "for pid in pids: os.waitpid(pid, 0)\nprint(1)"
    ),
    "shared mapping": (
        TOUCH + "import mmap, os, time\nm = mmap.mmap(-1, 80 << 20)\ntouch(m)\npids = []\nfor _ in range(4):\n"
        "    pid = os.fork()\n    if pid == 0:\n        touch(m)\n        time.sleep(0.6)\n        os._exit(0)\n"
        "    pids.append(pid)\nfor pid in pids: os.waitpid(pid, 0)\nprint(1)"
    ),
    "given back": (
        "import time\nfor _ in range(5):\n    x = bytearray(60 << 20)\n    time.sleep(0.2)\n    del x\nprint(1)"
    ),
}


@pytest.mark.parametrize("name", ENOUGH)
def test_what_is_not_used_or_is_shared_is_not_counted(small: Judge, name: str) -> None:
    result = small.run(ENOUGH[name])
    assert (result["stdout"], result["run_success"]) == ("1\n", True), result


def test_more_address_space_than_any_program_needs_is_an_error_of_memory(small: Judge) -> None:
    result = small.run("x = 1\nx = bytearray(10**13)")
    assert (result["kind"], result["line"], result["run_success"]) == ("MemoryError", 2, False)
    assert "MemoryError" in result["stderr"]
