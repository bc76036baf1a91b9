"""`python -m verl_cleaner.report RUN --serve`: follows a run, makes nothing while nobody looks, ends with Ctrl-C."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from report_data import write_run
from report_page import Page as Tab

from verl_cleaner.report import serve as module
from verl_cleaner.report.__main__ import main
from verl_cleaner.report.serve import Page, Server
from verl_cleaner.report.write import make_report


@contextmanager
def served(page):
    with Server(("127.0.0.1", 0), page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            page.close()
            server.shutdown()
            thread.join()


def get(server, path="/", host=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    reply = connection.getresponse()
    return reply, reply.read().decode()


def grow(run, step):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "data": {"critic/score/acc": 0.9, "late/metric": 1.0}}) + "\n")


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", steps=2, prompts=1, rollouts=2)


def test_a_page_is_made_only_for_a_reader_and_only_when_the_run_has_grown(run):
    made = []
    page = Page([run], lambda version: made.append(version) or f"<p>{version}")
    with served(page) as server:
        reply, text = get(server)
        assert (reply.status, "Waiting for the first metrics" in text) == (503, True)
        assert page.look()
        assert not page.look()
        assert made == []
        assert get(server)[1] == get(server)[1] == f"<p>{made[0]}"
        page._earliest = 0
        grow(run, 3)
        assert page.look()
        assert len(made) == 1
        get(server)
        assert len(set(made)) == 2


def test_making_it_leaves_the_processors_to_the_run(run, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def make(version):
        now[0] += 4
        return version

    page = Page([run], make)
    page.look()
    page.html()
    grow(run, 3)
    now[0] += 19
    assert not page.look()
    now[0] += 2
    assert page.look()


def test_it_answers_only_to_this_machines_names_and_only_with_the_report(run):
    page = Page([run], lambda version: "report")
    page.look()
    with served(page) as server:
        for host in ("localhost:1", "127.0.0.1", "[::1]:8642"):
            assert get(server, host=host)[0].status == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "["):
            assert get(server, host=host)[0].status == 403
        assert get(server, "/../../etc/passwd")[0].status == 404
        reply, _ = get(server)
        assert reply.getheader("Cache-Control") == "no-store"
        assert reply.getheader("X-Frame-Options") == "DENY"


def test_the_served_page_may_ask_its_server_and_a_file_may_not(run):
    assert "connect-src 'self'" in make_report([run], version="7")[0].split("</head>")[0]
    assert "connect-src" not in make_report([run])[0].split("</head>")[0]


def test_an_open_page_follows_the_run_and_keeps_what_was_chosen(browser, run):
    page = Page([run], lambda version: make_report([run], version=version)[0])
    page.look()
    asked, next_version = [], page.next_version
    page.next_version = lambda known, timeout: asked.append(known) or next_version(known, timeout)
    with served(page) as server:
        tab = Tab(browser, server.url, "#trajectories")
        tab.pick("repaired", "yes")
        tab.found(2)
        tab.script("window.old = true")
        page._earliest = 0
        grow(run, 7)
        assert page.look()
        tab.wait(lambda: tab.script("return !window.old && document.documentElement.dataset.ready"))
        assert tab.script("return Math.max(...data.runs.map((run) => run.steps[1]))") == 7
        tab.found(2)
        assert tab.script("return inspector.state().repaired") == "1"
        # The server says its version, which is the page's: no second reload.
        tab.script("window.old = true")
        tab.wait(lambda: asked.count(page._version) > 1)
        assert tab.script("return window.old")
        elsewhere = [text for text in tab.errors() if server.url not in text]
        assert elsewhere == []


def test_ctrl_c_ends_it_also_with_an_open_page(run):
    command = [sys.executable, "-m", "verl_cleaner.report", str(run), "--serve", "--port", "0", "--interval", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line
        port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/events")
        assert connection.getresponse().readline().startswith(b"data: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_a_port_in_use_is_named(run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit):
            main([str(run), "--serve", "--port", str(port)])
    assert f"--port {port} cannot be bound" in capsys.readouterr().err
