"""`code-judge serve` from its start to its end: whichever way it ends, nothing is left."""

import os
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from judge_harness import Judge, alive, command, descendants, environment, judge, start

LOOP = {"type": "python", "solution": "import os\nos.fork()\nprint(1, flush=True)\nwhile True: pass"}


def await_end(pids: list[int], seconds: float) -> None:
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ended, _, _ = select.select([fd], [], [], seconds)
        finally:
            os.close(fd)
        assert ended, f"process {pid} outlived the service"


def keep_busy(url: str, process: subprocess.Popen[str]) -> list[int]:
    """Give the service a program that does not end; return all processes below it once the program runs."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port)) as connection:
        request = httpx.Request("POST", url + "/run", json=LOOP)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        connection.sendall(f"POST /run HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            below = descendants(process.pid)
            if any(cpu_ticks(pid) >= 20 for pid in below):
                return below
            time.sleep(0.05)
        raise AssertionError("the program never ran")


def cpu_ticks(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_a_client_that_goes_away_stops_its_programs() -> None:
    """Alone, in a batch and among the tests of another; what others wait for runs on."""
    sleep = "import time\ntime.sleep({})\nprint(1)"
    with judge(MAX_EXECUTION_TIME=60, MAX_WORKERS=8) as it:
        others = threading.Thread(target=lambda: results.append(it.run(sleep.format(2))))
        results: list[dict[str, object]] = []
        others.start()
        long = {"type": "python", "solution": sleep.format(50)}
        for path, body in (("/run", long), ("/run/batch", {"submissions": [long, {**long, "tests": [{}, {}]}]})):
            with pytest.raises(httpx.ReadTimeout):
                it.http.post(path, json=body, timeout=0.7)
            await_idle(it, others)
        others.join()
        assert results[0]["stdout"] == "1\n"


def await_idle(it: Judge, others: threading.Thread) -> None:
    end = time.monotonic() + 10
    while it.http.get("/status").json()["busy"] > others.is_alive():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_and_no_folder_is_left(tmp_path: Path, number: signal.Signals) -> None:
    process, url = start(MAX_EXECUTION_TIME=60, TMPDIR=tmp_path)
    below = keep_busy(url, process)
    assert len(below) >= 2
    process.send_signal(number)
    process.wait(20)
    await_end(below, 20)
    assert not any(map(alive, below))
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_its_parent() -> None:
    parent = subprocess.Popen(["sleep", "600"])
    process, _ = start("--parent-pid", str(parent.pid))
    parent.kill()
    parent.wait()
    assert process.wait(20) == 0


def test_a_parent_that_is_gone_already() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    result = subprocess.run(
        command("serve", "--port", "0", "--parent-pid", str(gone.pid)), env=environment(), timeout=60, check=False
    )
    assert result.returncode == 0


def test_the_port_file_holds_the_url(tmp_path: Path) -> None:
    port_file = tmp_path / "url"
    process, url = start("--port-file", str(port_file))
    try:
        assert port_file.read_text() == url + "\n"
        assert httpx.get(url + "/ping").json() == "pong"
        assert sorted(tmp_path.iterdir()) == [port_file]
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ([], {"MAX_WORKERS": -1}, "MAX_WORKERS='-1' is not accepted"),
        ([], {"MAX_EXECUTION_TIME": "fast"}, "MAX_EXECUTION_TIME='fast' is not accepted"),
        (["--host", "no.such.host.invalid"], {}, "cannot listen on no.such.host.invalid"),
    ],
)
def test_a_bad_setting_is_named(arguments: list[str], settings: dict[str, object], message: str) -> None:
    result = refused(["--port", "0", *arguments], **settings)
    assert message in result


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(["--port", str(port)])
    assert f"cannot listen on 127.0.0.1:{port}" in message
    assert "--port 0" in message


def refused(arguments: list[str], **settings: object) -> str:
    """What it says on stderr: one line, no traceback."""
    result = subprocess.run(
        command("serve", *arguments),
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    return result.stderr
