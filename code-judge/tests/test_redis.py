"""The queue in Redis: the same contract, any number of processes, and what happens when one of them is killed."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from judge_harness import EXTRA, Judge, descendants, environment, judge, on_this_machine
from redis_harness import ROOT, Redis, api, ended_at_the_end, free_port, needs_redis, redis_server, wait_until, workers

pytestmark = [needs_redis, pytest.mark.waits]
SLEEP = "import time\ntime.sleep({seconds})\nprint('slept')"
HELLO = {"type": "python", "solution": "print('hello')", "expected_output": "hello"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as it:
        yield it


@pytest.fixture(scope="module")
def pool(redis: Redis) -> Iterator[Judge]:
    """Two API processes and two workers."""
    with (
        api(redis.uri, "--workers", "2", MAX_QUEUE_WORK_LIFE_TIME=3) as it,
        workers(redis.uri),
        workers(redis.uri),
    ):
        yield it


def is_worker(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def is_zygote(pid: int) -> bool:
    """The child of the keeper."""
    parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
    commands = [Path(f"/proc/{p}/cmdline").read_bytes() for p in (pid, parent)]
    return all(b"zygote" in command for command in commands)


def is_template(pid: int) -> bool:
    """The child of the zygote."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return is_zygote(pid) and is_zygote(parent)


PARTS = {"worker": is_worker, "zygote": is_zygote, "template": is_template}


def in_background(call: Callable[[], Any]) -> "Future[Any]":
    executor = ThreadPoolExecutor(1)
    future = executor.submit(call)
    executor.shutdown(wait=False)
    return future


def await_busy(it: Judge, busy: int) -> None:
    """A worker tells how busy it is every 0.6 s, later on a busy machine: what is shorter is not seen."""
    wait_until(lambda: it.http.get("/status").json()["busy"] >= busy, f"{busy} programs run")


def test_contract(pool: Judge) -> None:
    status = pool.http.get("/status").json()
    assert (status["queue"], status["num_workers"], status["workers"]) == (0, 16, 2)
    result = pool.post("/judge", **HELLO, sub_id="a")
    public = {"sub_id": "a", "success": True, "run_success": True, "cost": result["cost"], "reason": ""}
    assert result == {**public, "kind": "ok", "line": None, "exit_code": 0}
    solutions = [f"print({i})" for i in range(100)]
    for path in ("/run/batch", "/run/long-batch"):
        assert [r["stdout"] for r in pool.run_all(solutions, path)] == [f"{i}\n" for i in range(100)]
    assert pool.run("while True: pass")["reason"] == "worker_timeout"


def test_a_submissions_own_limits_come_along(pool: Judge) -> None:
    result = pool.run("while True: pass", limits={"cpu": 0.3, "seconds": 3.5, "output": 2})
    assert result["kind"] == "timeout"
    assert 0.25 < result["cost"] < on_this_machine(3)
    assert pool.run("print('x' * 9)", limits={"output": 2})["stdout"] == "xx"


def test_services_with_different_prefixes_share_nothing_but_redis(redis: Redis, pool: Judge) -> None:
    with api(redis.uri, REDIS_KEY_PREFIX="js", RUN_WORKERS=1, MAX_WORKERS=3) as other:
        assert other.http.get("/status").json()["num_workers"] == 3
        assert other.post("/judge", **HELLO)["success"]
        assert pool.http.get("/status").json()["num_workers"] == 16
        prefixes = {key.partition(b"}")[0] for key in redis.cli("keys", "*").split()}
        assert prefixes == {b"{js", b"{code-judge"}


def test_many_clients_get_their_own_results(pool: Judge) -> None:
    def client(number: int) -> bool:
        with httpx.Client(base_url=pool.url, timeout=60) as http:
            for i in range(20):
                body = {"type": "python", "solution": f"print({number}, {i})", "sub_id": "the same"}
                if http.post("/run", json=body).json()["stdout"] != f"{number} {i}\n":
                    return False
        return True

    with ThreadPoolExecutor(16) as executor:
        assert all(executor.map(client, range(16)))


def test_metrics_add_up_over_processes(pool: Judge) -> None:
    body = {"type": "python", "solution": "raise SystemExit(3)"}
    for _ in range(10):
        with httpx.Client(base_url=pool.url, headers=EXTRA) as http:
            assert http.post("/run", json=body).json()["kind"] == "nonzero_exit"
    sample = 'code_judge_verdicts_total{verdict="nonzero_exit"} 10'
    wait_until(lambda: sample in pool.http.get("/metrics").text.splitlines(), "all processes have counted")
    lines = pool.http.get("/metrics").text.splitlines()
    assert "code_judge_slots 16" in lines
    assert any(line.startswith('code_judge_run_seconds_bucket{le="+Inf"} ') for line in lines)


@pytest.mark.alone
def test_a_queue_that_nobody_serves(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri, MAX_QUEUE_WORK_LIFE_TIME=0.5) as it:
        start = time.monotonic()
        assert it.run("print(1)")["reason"] == "queue_timeout"
        assert [r["reason"] for r in it.run_all(["print(1)"] * 3, "/run/batch")] == ["queue_timeout"] * 3
        assert time.monotonic() - start < 3
        assert redis.cli("xlen", "{code-judge}:jobs") == b"0\n"
        # A long batch waits for the first worker to come.
        answer = in_background(lambda: it.run_all(["print(1)"]))
        wait_until(lambda: it.http.get("/status").json()["queue"] == 1, "the job is queued")
        with workers(redis.uri):
            assert answer.result(20)[0]["stdout"] == "1\n"


def test_what_runs_is_waited_for_beyond_the_life_time(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as redis,
        api(redis.uri, MAX_QUEUE_WORK_LIFE_TIME=0.5) as it,
        workers(redis.uri, MAX_WORKERS=1),
    ):
        results = it.run_all([SLEEP.format(seconds=1.5), "print(1)"], "/run/batch")
        assert [r["reason"] for r in results] == ["", "queue_timeout"]
        assert results[0]["stdout"] == "slept\n"


def test_a_client_that_goes_away_takes_its_jobs_along(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it:
        batch = {"type": "batch", "submissions": [HELLO] * 50}
        with pytest.raises(httpx.ReadTimeout):
            it.http.post("/run/long-batch", json=batch, timeout=1)
        wait_until(lambda: it.http.get("/status").json()["queue"] == 0, "the queue is empty")


def test_a_client_that_goes_away_stops_its_programs(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri, MAX_EXECUTION_TIME=60):
        answer = in_background(lambda: it.run(SLEEP.format(seconds=3)))
        await_busy(it, 1)
        batch = {"submissions": [{"type": "python", "solution": SLEEP.format(seconds=50)}] * 2}
        with pytest.raises(httpx.ReadTimeout):
            it.http.post("/run/long-batch", json=batch, timeout=1)
        wait_until(lambda: it.http.get("/status").json()["busy"] <= 1, "they are stopped", 10)
        assert answer.result(30)["stdout"] == "slept\n"
        wait_until(lambda: redis.cli("xlen", "{code-judge}:long-jobs") == b"0\n", "nothing is left", 10)


def test_jobs_die_with_their_api_process(tmp_path: Path) -> None:
    """Those that run and those that wait. Its sign of life is taken away, which would expire by itself."""
    with (
        redis_server(tmp_path) as redis,
        workers(redis.uri, MAX_EXECUTION_TIME=60, MAX_WORKERS=2),
        api(redis.uri) as it,
    ):
        wait_until(lambda: len(signs_of_life(redis)) == 1, "the API has given a sign of life")
        living = signs_of_life(redis)
        with api(redis.uri) as doomed:
            batch = in_background(lambda: doomed.run_all([SLEEP.format(seconds=50)] * 50))
            await_busy(it, 2)
            doomed.process.kill()
            with pytest.raises(httpx.TransportError):
                batch.result(10)
        (dead,) = signs_of_life(redis) - living
        redis.cli("del", dead)
        wait_until(lambda: redis.cli("xlen", "{code-judge}:long-jobs") == b"0\n", "its jobs are dropped", 20)
        assert it.post("/judge", **HELLO)["success"]
        wait_until(lambda: it.http.get("/status").json()["busy"] == 0, "none of them runs on", 10)


def test_an_api_process_that_is_told_to_end_says_so_and_takes_its_jobs_along(tmp_path: Path) -> None:
    """At once, where a process that is killed leaves them for 20 s."""
    with redis_server(tmp_path) as redis, workers(redis.uri, MAX_EXECUTION_TIME=60, MAX_WORKERS=2):
        with api(redis.uri, "--timeout-graceful-shutdown", "1") as it:
            batch = {"submissions": [{"type": "python", "solution": SLEEP.format(seconds=50)}] * 50}
            reply = in_background(lambda: httpx.post(f"{it.url}/run/long-batch", json=batch, timeout=60))
            await_busy(it, 2)
            it.process.send_signal(signal.SIGTERM)
            assert (reply.result(20).status_code, reply.result().headers["retry-after"]) == (503, "1")
            assert "about to end" in reply.result().json()["detail"]
        wait_until(lambda: redis.cli("xlen", "{code-judge}:long-jobs") == b"0\n", "its jobs are dropped", 10)


def signs_of_life(redis: Redis) -> set[str]:
    """Of API processes."""
    return set(redis.cli("keys", "{code-judge}:api:*").decode().split())


def test_workers_in_the_api_process(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri, RUN_WORKERS=1, MAX_WORKERS=3) as it:
        wait_until(lambda: it.http.get("/status").json()["num_workers"] == 3, "its worker has registered")
        assert it.post("/judge", **HELLO)["success"]


@pytest.mark.alone
@pytest.mark.parametrize("victim", PARTS)
def test_a_worker_that_is_killed_loses_no_job(tmp_path: Path, victim: str) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri, MAX_WORKERS=4) as first:
        answer = in_background(lambda: it.run_all([SLEEP.format(seconds=0.5)] * 16))
        await_busy(it, 4)
        start = time.monotonic()
        os.kill(next(filter(PARTS[victim], descendants(first.pid))), signal.SIGKILL)
        results = answer.result(40)
        assert time.monotonic() - start < 12
        reasons = [r["reason"] for r in results]
        if victim == "worker":
            assert reasons == [""] * 16
        else:
            # What was in the zygote is lost with it and answered so, for the client to try again.
            assert set(reasons) <= {"", "internal_error"}
            assert all(r["stdout"] == "slept\n" for r in results if not r["reason"])


def test_a_template_that_is_stopped_holds_nothing_up_for_long(tmp_path: Path) -> None:
    """What a program can do to it where both have one user."""
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri, MAX_WORKERS=4) as first:
        it.run("print(1)")
        # Programs look alike, but none runs.
        templates = [pid for pid in descendants(first.pid) if is_template(pid)]
        answer = in_background(lambda: it.run_all([SLEEP.format(seconds=1.5)] * 8))
        await_busy(it, 4)
        for template in templates:
            os.kill(template, signal.SIGSTOP)
        results = answer.result(40)
        assert {r["reason"] for r in results} <= {"", "internal_error"}
        # The one that finds it stopped is answered so, and the next one runs in its successor.
        answers = [it.run("print(1)") for _ in range(2)]
        assert answers[0]["reason"] in ("", "internal_error")
        assert answers[1]["stdout"] == "1\n"


def test_a_job_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri, MAX_DELIVERIES=2) as it_worker:
        answer = in_background(lambda: it.run(SLEEP.format(seconds=3)))
        for number in (1, 2):
            wait_until(lambda number=number: deliveries(redis, "jobs") == [number], f"worker {number} has begun it")
            os.kill(next(p for p in descendants(it_worker.pid) if is_worker(p)), signal.SIGKILL)
        result = answer.result(30)
        assert (result["reason"], result["run_success"], result["success"]) == ("internal_error", False, False)
        assert "given up: each of the 2 workers that ran it died" in result["stderr"]
        assert it.post("/judge", **HELLO)["success"]


def deliveries(redis: Redis, stream: str) -> list[int]:
    """Of each job that has been taken: how many workers have begun it."""
    # Entry, worker, idle time, deliveries of each; an error while there are no workers.
    pending = redis.cli("xpending", f"{{code-judge}}:{stream}", "workers", "-", "+", "100").split()
    return [int(number) for number in pending[3::4] if number.isdigit()]


@pytest.mark.alone
def test_redis_restarting_loses_nothing_that_it_holds(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri, MAX_WORKERS=4):
        answer = in_background(lambda: it.run_all([SLEEP.format(seconds=0.3)] * 40))
        await_busy(it, 4)
        redis.kill()
        start = time.monotonic()
        # Programs end meanwhile.
        time.sleep(1)
        redis.start()
        results = answer.result(30)
        assert [r["reason"] for r in results] == [""] * 40
        assert [r["stdout"] for r in results] == ["slept\n"] * 40
        assert time.monotonic() - start < 10


@pytest.mark.alone
def test_redis_emptied(tmp_path: Path) -> None:
    """Waiting jobs are gone and answered as our failure within seconds; running ones are finished."""
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri, MAX_WORKERS=4):
        answer = in_background(lambda: it.run_all([SLEEP.format(seconds=1.5)] * 12))
        await_busy(it, 4)
        redis.cli("flushall")
        start = time.monotonic()
        results = answer.result(30)
        assert time.monotonic() - start < 6
        reasons = [r["reason"] for r in results]
        assert reasons.count("internal_error") == 8
        assert all("Redis has lost" in r["stderr"] for r in results if r["reason"])
        assert reasons.count("") == 4
        # And it works on.
        assert it.run("print(1)")["stdout"] == "1\n"


@pytest.mark.alone
def test_redis_gone_for_good(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri, REDIS_PATIENCE=1.5) as it, workers(redis.uri):
        assert it.run("print(1)")["stdout"] == "1\n"
        answer = in_background(lambda: it.run_all([SLEEP.format(seconds=1.5)] * 4))
        await_busy(it, 4)
        redis.kill()
        start = time.monotonic()
        assert [r["reason"] for r in answer.result(30)] == ["internal_error"] * 4
        result = it.run("print(1)")
        assert result["reason"] == "internal_error"
        assert "Redis" in result["stderr"]
        assert time.monotonic() - start < 8
        assert it.http.get("/ping").json() == "pong"
        assert it.http.get("/status").status_code == 503
        redis.start()
        wait_until(lambda: it.run("print(1)")["reason"] == "", "it works again", 5)


def test_a_killed_api_process_leaves_the_workers_working(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, workers(redis.uri):
        with api(redis.uri) as it:
            answer = in_background(lambda: it.run_all([SLEEP.format(seconds=1)] * 20))
            await_busy(it, 4)
            it.process.kill()
            with pytest.raises(httpx.TransportError):
                answer.result(10)
        with api(redis.uri) as it:
            assert it.run("print(1)")["stdout"] == "1\n"


def test_a_stalled_worker_that_comes_back_answers_nothing_twice(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri) as first:
        answer = in_background(lambda: it.run_all([f"import time; time.sleep(2); print({i})" for i in range(8)]))
        await_busy(it, 1)
        stalled = next(p for p in descendants(first.pid) if is_worker(p))
        os.kill(stalled, signal.SIGSTOP)
        with workers(redis.uri):
            results = answer.result(30)
            os.kill(stalled, signal.SIGCONT)
            assert [r["stdout"] for r in results] == [f"{i}\n" for i in range(8)]
            assert [r["stdout"] for r in it.run_all(["print(1)"] * 20)] == ["1\n"] * 20


@pytest.mark.alone
def test_ten_thousand_queued_jobs_do_not_hold_up_a_single_one(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri, MAX_WORKERS=8):

        def keep() -> None:
            batch = {"type": "batch", "submissions": [HELLO] * 10_000}
            with httpx.Client(base_url=it.url, timeout=3) as http, pytest.raises(httpx.ReadTimeout):
                http.post("/judge/long-batch", json=batch)

        flooding = in_background(keep)
        wait_until(lambda: it.http.get("/status").json()["queue"] > 8000, "the jobs are queued")
        start = time.monotonic()
        assert it.post("/judge", **HELLO)["success"]
        assert time.monotonic() - start < 1
        flooding.result(30)
        wait_until(lambda: it.http.get("/status").json()["queue"] == 0, "what is left was withdrawn")


def test_a_clock_that_jumps(tmp_path: Path) -> None:
    """Redis' clock: the signs of life expire all at once; jobs run twice, each is answered once."""
    limits = {"MAX_EXECUTION_TIME": 10}
    with (
        redis_server(tmp_path) as redis,
        api(redis.uri) as it,
        workers(redis.uri, **limits),
        workers(redis.uri, **limits),
    ):
        # Short ones are answered for the second time while long ones run.
        programs = [f"import time; time.sleep({6 if i % 2 else 2}); print({i})" for i in range(8)]
        answer = in_background(lambda: it.run_all(programs))
        await_busy(it, 4)
        names = redis.cli("keys", "{code-judge}:worker:*").decode().split()
        assert len(names) == 2
        redis.cli("del", *names)
        wait_until(lambda: 2 in deliveries(redis, "long-jobs"), "some are taken over")
        assert [r["stdout"] for r in answer.result(30)] == [f"{i}\n" for i in range(8)]
        wait_until(lambda: it.http.get("/status").json()["workers"] == 2, "both workers are known again")


@pytest.fixture
def host() -> Iterator[tuple[str, str]]:
    """Another host: a network namespace and our address on the wire to it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip")
    name, ours = f"judge{os.getpid() % 10000}", f"10.213.{os.getpid() % 250}.1"
    theirs = ours.removesuffix("1") + "2"
    commands = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b",
        f"ip link set {name}b netns {name}",
        f"ip addr add {ours}/30 dev {name}a",
        f"ip link set {name}a up",
        f"ip netns exec {name} ip addr add {theirs}/30 dev {name}b",
        f"ip netns exec {name} ip link set {name}b up",
    ]
    try:
        for command in commands:
            if subprocess.run(command.split(), check=False).returncode:
                pytest.skip(f"the host does not allow {command!r}")
        yield name, ours
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def test_workers_on_two_hosts(tmp_path: Path, host: tuple[str, str]) -> None:
    name, ours = host
    port = free_port()
    options = ("--requirepass", "secret", "--bind", ours)
    uri = f"redis://:secret@{ours}:{port}"
    there = ("ip", "netns", "exec", name)
    with redis_server(tmp_path, *options, port=port), api(uri) as it, workers(uri, within=there) as far:
        with workers(uri) as near:
            assert it.http.get("/status").json()["workers"] == 2
            answer = in_background(lambda: it.run_all([SLEEP.format(seconds=0.8)] * 40))
            await_busy(it, 12)
            # One host dies; the other takes over what it ran.
            os.kill(near.pid, signal.SIGSTOP)
            os.kill(next(p for p in descendants(near.pid) if is_worker(p)), signal.SIGKILL)
            assert [r["stdout"] for r in answer.result(30)] == ["slept\n"] * 40
            os.kill(near.pid, signal.SIGCONT)
        assert far.poll() is None


def test_serve_runs_programs_with_redis_too(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, judge(REDIS_URI=redis.uri, MAX_WORKERS=2) as it:
        assert it.post("/judge", **HELLO)["success"]


def test_password_and_port(tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, "--requirepass", "se:cret", port=port):
        uri = f"redis://:se%3Acret@127.0.0.1:{port}/0"
        with api(uri) as it, workers(uri):
            assert it.post("/judge", **HELLO)["success"]


def test_cluster(tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, "--cluster-enabled", "yes", port=port) as redis:
        redis.cli("cluster", "addslotsrange", "0", "16383")
        wait_until(lambda: b"cluster_state:ok" in redis.cli("cluster", "info"), "the cluster is up")
        uri = f"redis+cluster://127.0.0.1:{port}"
        with api(uri) as it, workers(uri):
            assert [r["stdout"] for r in it.run_all(["print(1)"] * 20)] == ["1\n"] * 20
            redis.kill()
            redis.start()
            wait_until(lambda: it.run("print(2)")["stdout"] == "2\n", "it works again", 10)


def test_a_primary_that_becomes_a_replica_is_left(tmp_path: Path) -> None:
    """Sentinel says where the primary is. Its place is taken by hand, as a sentinel does it."""
    with primary_and_replica(tmp_path) as (port, second, fail_over):
        uri = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/judge"
        with api(uri) as it, workers(uri):
            assert it.post("/judge", **HELLO)["success"]
            fail_over()
            wait_until(lambda: it.post("/judge", **HELLO)["success"], "the second is used", 20)
            assert b"{code-judge}:workers" in second.cli("keys", "*")


@contextlib.contextmanager
def primary_and_replica(folder: Path) -> Iterator[tuple[int, Redis, Callable[[], None]]]:
    """The port of a sentinel that knows both, the replica, and what makes it the primary."""
    folders = [folder / name for name in ("a", "b", "sentinel")]
    for one in folders:
        one.mkdir()
    ports = [free_port() for _ in range(2)]
    with redis_server(folders[0], port=ports[0]) as first, redis_server(folders[1], port=ports[1]) as second:
        second.cli("replicaof", "127.0.0.1", str(ports[0]))
        with sentinel(folders[2], ports[0]) as port:

            def fail_over() -> None:
                wait_until(lambda: b"master_link_status:up" in second.cli("info", "replication"), "it is a replica")
                command = ["redis-cli", "-p", str(port), "sentinel", "failover", "judge"]
                wait_until(
                    lambda: b"OK" in subprocess.run(command, capture_output=True, check=False).stdout, "failover"
                )
                wait_until(lambda: b"role:slave" in first.cli("info", "replication"), "the first is a replica now")

            yield port, second, fail_over


@contextlib.contextmanager
def sentinel(folder: Path, primary: int) -> Iterator[int]:
    port = free_port()
    settings = [f"port {port}", f"sentinel monitor judge 127.0.0.1 {primary} 1", "sentinel failover-timeout judge 5000"]
    file = folder / "sentinel.conf"
    file.write_text("\n".join([*settings, f"dir {folder}", "daemonize no", ""]))
    command = ["redis-server", str(file), "--sentinel"]
    with ended_at_the_end(subprocess.Popen(command, stdout=subprocess.DEVNULL)):
        ask = ["redis-cli", "-p", str(port), "sentinel", "replicas", "judge"]
        wait_until(lambda: b"ip" in subprocess.run(ask, capture_output=True, check=False).stdout, "it sees the replica")
        yield port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_finish_what_they_run_when_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    """Killed, the supervisor takes its workers along just so."""
    with redis_server(tmp_path) as redis, api(redis.uri) as it, workers(redis.uri) as process:
        answer = in_background(lambda: it.run(SLEEP.format(seconds=2)))
        await_busy(it, 1)
        below = descendants(process.pid)
        process.send_signal(number)
        assert answer.result(10)["stdout"] == "slept\n"
        assert process.wait(10) == (0 if number == signal.SIGTERM else -number)
        for pid in below:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            assert select.select([fd], [], [], 10)[0], f"{pid} is left"
            os.close(fd)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set REDIS_URI"),
        ({"REDIS_URI": "http://x"}, "REDIS_URI must begin with one of"),
        ({"REDIS_URI": "redis://x", "MAX_MEMORY": "1"}, "MAX_MEMORY='1' is not accepted"),
    ],
)
def test_workers_refuse_bad_settings(settings: dict[str, str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "run_workers.py"],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
