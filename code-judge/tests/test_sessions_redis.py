"""Sessions held by workers over Redis: any API process reaches them, and what happens when a part of it is killed."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from judge_harness import Judge, descendants
from redis_harness import Redis, api, free_port, needs_redis, redis_server, wait_until, workers
from session_harness import Session, open_session
from test_hostile import is_program
from test_redis import in_background, is_worker, primary_and_replica

from code_judge.sessions.client import SessionClient, SessionOutage

pytestmark = [needs_redis, pytest.mark.waits]
SLOW = "import time\ntime.sleep({seconds})\nx += 1\nx"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with redis_server(tmp_path) as it:
        yield it


@contextlib.contextmanager
def holding(uri: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A worker that ends soon when the test does."""
    with workers(uri, **{"DRAIN_TIME": 0, **settings}) as it:
        yield it


def process_of(worker: "subprocess.Popen[str]") -> int:
    return next(pid for pid in descendants(worker.pid) if is_worker(pid))


def programs(worker: "subprocess.Popen[str]") -> list[int]:
    """Processes of sessions."""
    return [pid for pid in descendants(worker.pid) if is_program(pid)]


def runs(session: Session) -> Callable[[], bool]:
    """Whether a cell of the session is under way. A worker tells it every 0.6 s, later on a busy machine: shorter cells
    are not seen."""

    def condition() -> bool:
        with httpx.Client(base_url=session.judge.url, headers=session.judge.http.headers) as http:
            return bool(http.get("/status").json()["busy"])

    return condition


def at(judge: Judge, session: Session) -> Session:
    return Session(judge, session.id)


def answer_of(session: Session, code: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{session.judge.url}/session/{session.id}/run", json={"code": code, **more}, timeout=60)


def lies_in_redis(redis: Redis) -> bool:
    """Whether a call lies in some home's stream, where it stays from the call to the answer."""
    streams = redis.cli("--scan", "--pattern", "*:session-calls:*").decode().split()
    return any(int(redis.cli("xlen", stream)) for stream in streams)


def error(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["detail"]["error"]


def test_new_sessions_go_where_the_most_places_are_and_full_workers_say_when_to_come_back(redis: Redis) -> None:
    with api(redis.uri) as it, holding(redis.uri, MAX_SESSIONS=1), holding(redis.uri, MAX_SESSIONS=3):
        sessions = [open_session(it) for _ in range(4)]
        homes = [session.id[:12] for session in sessions]
        assert sorted(homes.count(home) for home in set(homes)) == [1, 3]
        assert homes.count(homes[0]) == homes[:2].count(homes[0]) + 1 == 3
        assert [session.value("1 + 1") for session in sessions] == ["2"] * 4
        refused = it.http.post("/session")
        assert error(refused) == (429, "too_many_sessions")
        assert int(refused.headers["retry-after"]) >= 1
        status = it.http.get("/status").json()
        assert (status["sessions"], status["max_sessions"]) == (4, 4)
        sessions[0].delete()
        assert it.http.get("/session").json() == {"sessions": 3}
        assert open_session(it).id[:12] == homes[0]


def test_an_api_process_that_is_killed_takes_no_session_along(redis: Redis) -> None:
    with holding(redis.uri):
        with api(redis.uri) as first:
            session = open_session(first)
            session.run("x = 1")
            call = in_background(lambda: answer_of(session, SLOW.format(seconds=2), run_id="a"))
            wait_until(runs(session), "the cell runs")
            first.process.kill()
            with pytest.raises(httpx.TransportError):
                call.result(10)
        with api(redis.uri) as second, api(redis.uri) as third:
            again = at(second, session).run(SLOW.format(seconds=2), run_id="a")
            assert (again["stdout"], again["committed"]) == ("2\n", True)
            assert at(third, session).value("x") == "2"


def test_a_worker_that_is_killed_in_the_middle_of_a_cell_is_told_and_is_our_outage(redis: Redis) -> None:
    with api(redis.uri) as it, holding(redis.uri) as first:
        session, idle = open_session(it), open_session(it)
        with holding(redis.uri):
            other = open_session(it)
            other.run("x = 5")
            call = in_background(lambda: answer_of(session, "while True: pass"))
            wait_until(runs(session), "the cell runs")
            os.kill(process_of(first), signal.SIGKILL)
            start = time.monotonic()
            reply = call.result(60)
            # The pulse, the grace, two looks, and a machine that is busy.
            assert time.monotonic() - start < 12
            detail = reply.json()["detail"]
            assert (reply.status_code, detail["error"]) == (410, "session_lost")
            assert "the worker that held it is gone" in detail["message"]
            assert (detail["retriable"], detail["infrastructure"]) == (False, True)
            assert idle.trouble("POST", "snapshot")[1]["error"] == "session_lost"
            assert other.value("x") == "5"
            assert open_session(it).value("1 + 1") == "2"
            await_metrics(it, "code_judge_sessions_lost_total 2")


def await_metrics(it: Judge, *lines: str) -> None:
    """API processes write their counts once a second."""
    wait_until(lambda: set(lines) <= set(it.http.get("/metrics").text.splitlines()), f"the metrics {lines}", 10)


async def test_the_client_takes_a_lost_worker_for_an_outage(redis: Redis) -> None:
    with api(redis.uri) as it, holding(redis.uri) as worker:
        client = SessionClient(it.url, deadline=30)
        session = await client.open()
        await session.run("x = 1")
        os.kill(process_of(worker), signal.SIGKILL)
        with pytest.raises(SessionOutage, match="session_lost"):
            await session.run("x")
        await session.close()
        await client.close()


def test_a_worker_that_was_held_up_does_not_begin_what_was_given_up(redis: Redis) -> None:
    with api(redis.uri) as it, holding(redis.uri) as worker:
        session = open_session(it)
        session.run("x = 1")
        os.kill(process_of(worker), signal.SIGSTOP)
        # The first waits until the worker counts as lost, and the next is told at once.
        for code in ("x = 2", "x = 3"):
            assert error(answer_of(session, code)) == (410, "session_lost")
        os.kill(process_of(worker), signal.SIGCONT)
        wait_until(lambda: it.http.get(f"/session/{session.id}").status_code == 200, "it is there again")
        assert session.value("x") == "1"


def test_a_call_that_waited_too_long_in_redis_is_not_begun(redis: Redis) -> None:
    with api(redis.uri, MAX_QUEUE_WORK_LIFE_TIME=1.5) as it, holding(redis.uri) as worker:
        session = open_session(it)
        session.run("x = 1")
        os.kill(process_of(worker), signal.SIGSTOP)
        call = in_background(lambda: answer_of(session, "x = 2"))
        wait_until(lambda: lies_in_redis(redis), "the call lies in Redis")
        # A worker counts as lost after 4 s.
        time.sleep(2)
        os.kill(process_of(worker), signal.SIGCONT)
        assert error(call.result(30)) == (503, "queue_timeout")
        assert session.value("x") == "1"


def test_a_restart_of_redis_loses_nothing(redis: Redis) -> None:
    with api(redis.uri, REDIS_PATIENCE=30) as it, holding(redis.uri):
        session = open_session(it)
        session.run("x = 1")
        call = in_background(lambda: answer_of(session, SLOW.format(seconds=2)))
        wait_until(runs(session), "the cell runs")
        redis.kill()
        # The cell ends meanwhile.
        time.sleep(3)
        redis.start()
        assert call.result(30).json()["stdout"] == "2\n"
        assert session.value("x") == "2"


def test_an_emptied_redis_loses_calls_but_no_session(redis: Redis) -> None:
    with api(redis.uri) as it, holding(redis.uri, MAX_EXECUTION_TIME=20):
        session = open_session(it)
        session.run("x = 1")
        # It takes 2 s to find out, and longer on a busy machine.
        code = SLOW.format(seconds=6)
        call = in_background(lambda: answer_of(session, code, run_id="a"))
        wait_until(runs(session), "the cell runs")
        redis.cli("flushall")
        reply = call.result(30)
        assert error(reply) == (503, "internal_error")
        assert "Redis has lost the call" in reply.json()["detail"]["message"]
        assert reply.json()["detail"]["retriable"]
        assert session.run(code, run_id="a")["stdout"] == "2\n"
        assert session.value("x") == "2"
        assert open_session(it).value("1 + 1") == "2"


def test_redis_gone_is_told_within_the_patience_and_sessions_outlive_it(redis: Redis) -> None:
    with api(redis.uri, REDIS_PATIENCE=1.5) as it, holding(redis.uri):
        session = open_session(it)
        session.run("x = 1")
        call = in_background(lambda: answer_of(session, SLOW.format(seconds=2.5)))
        wait_until(runs(session), "the cell runs")
        redis.kill()
        start = time.monotonic()
        assert error(call.result(30)) == (503, "internal_error")
        assert error(answer_of(session, "x")) == (503, "internal_error")
        assert error(it.http.post("/session")) == (503, "internal_error")
        assert time.monotonic() - start < 12
        assert it.http.get("/session").status_code == 503
        redis.start()
        wait_until(lambda: answer_of(session, "x").status_code == 200, "it works again", 10)
        assert session.value("x") == "2"


def test_the_home_counts_the_time_to_live(redis: Redis) -> None:
    with api(redis.uri, SESSION_TTL=1000) as it, holding(redis.uri, SESSION_TTL=2) as _:
        session, busy = open_session(it), open_session(it, ttl=1000)
        wait_until(lambda: it.http.get("/session").json() == {"sessions": 0}, "both have expired")
        status, detail = session.trouble("POST", "run", code="1")
        assert (status, detail["error"]) == (410, "session_expired")
        assert busy.trouble()[1]["error"] == "session_expired"


def test_a_worker_that_is_told_to_end_goes_on_with_its_sessions_and_takes_no_others(redis: Redis) -> None:
    with api(redis.uri) as it, workers(redis.uri, DRAIN_TIME=60) as first:
        session = open_session(it)
        session.run("x = 1")
        call = in_background(lambda: answer_of(session, SLOW.format(seconds=2)))
        wait_until(runs(session), "the cell runs")
        first.send_signal(signal.SIGTERM)
        assert call.result(30).json()["stdout"] == "2\n"
        assert error(it.http.post("/session")) == (503, "not_opened")
        with holding(redis.uri):
            assert open_session(it).id[:12] != session.id[:12]
            assert session.value("x") == "2"
            session.delete()
            assert first.wait(20) == 0


def test_sessions_that_outlast_the_drain_time_end_with_a_clear_answer(redis: Redis) -> None:
    with api(redis.uri) as it, workers(redis.uri, DRAIN_TIME=0.5) as worker:
        session, idle = open_session(it), open_session(it)
        call = in_background(lambda: answer_of(session, "while True: pass"))
        wait_until(runs(session), "the cell runs")
        worker.send_signal(signal.SIGTERM)
        for reply in (call.result(30), answer_of(idle, "1")):
            assert error(reply) == (410, "session_lost")
            assert "the worker that held it was shut down" in reply.json()["detail"]["message"]
        assert worker.wait(20) == 0


def test_a_caller_that_leaves_while_a_session_is_opened_leaves_none(redis: Redis) -> None:
    with api(redis.uri) as it, holding(redis.uri) as worker:
        open_session(it).delete()
        wait_until(lambda: not programs(worker), "the process of the first is gone")
        os.kill(process_of(worker), signal.SIGSTOP)
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{it.url}/session", timeout=0.3)
        os.kill(process_of(worker), signal.SIGCONT)
        open_session(it).delete()
        wait_until(lambda: it.http.get("/session").json() == {"sessions": 0}, "no session is left")
        wait_until(lambda: not programs(worker), "no process is left")


def test_services_with_other_prefixes_have_other_sessions(redis: Redis) -> None:
    with api(redis.uri, REDIS_KEY_PREFIX="other") as other, api(redis.uri) as it, holding(redis.uri):
        session = open_session(it)
        assert error(other.http.post("/session")) == (503, "not_opened")
        assert at(other, session).trouble()[0] == 410
        assert session.value("1 + 1") == "2"
        assert b"{code-judge}:session-homes" in redis.cli("keys", "*")


def test_an_api_process_with_a_worker_of_its_own_holds_sessions_for_all(redis: Redis) -> None:
    with api(redis.uri, RUN_WORKERS=1, MAX_WORKERS=4) as first, api(redis.uri) as second:
        session = open_session(second)
        session.run("x = 1")
        assert at(first, session).value("x") == "1"


def test_cells_are_counted(redis: Redis) -> None:
    with api(redis.uri) as it, holding(redis.uri, MAX_SESSIONS=7):
        session = open_session(it)
        session.run("1")
        session.run("1 / 0")
        await_metrics(
            it,
            "code_judge_cells_total 2",
            "code_judge_sessions_open 1",
            "code_judge_sessions_most 7",
            'code_judge_verdicts_total{verdict="exception"} 1',
        )


def test_in_a_cluster(tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, "--cluster-enabled", "yes", port=port) as redis:
        redis.cli("cluster", "addslotsrange", "0", "16383")
        wait_until(lambda: b"cluster_state:ok" in redis.cli("cluster", "info"), "the cluster is up")
        uri = f"redis+cluster://127.0.0.1:{port}"
        with api(uri) as it, holding(uri):
            session = open_session(it)
            session.run("x = 1")
            redis.kill()
            redis.start()
            wait_until(lambda: answer_of(session, "x").status_code == 200, "it works again", 10)
            assert session.value("x") == "1"


def test_a_session_outlives_a_primary_that_becomes_a_replica(tmp_path: Path) -> None:
    with primary_and_replica(tmp_path) as (port, second, fail_over):
        uri = f"redis+sentinel://127.0.0.1:{port}/judge"
        with api(uri) as it, holding(uri):
            session = open_session(it)
            session.run("x = 1")
            fail_over()
            wait_until(lambda: answer_of(session, "x").status_code == 200, "the second is used", 20)
            assert session.value("x") == "1"
            assert b"{code-judge}:session-homes" in second.cli("keys", "*")


def test_many_callers_of_many_sessions(redis: Redis) -> None:
    with api(redis.uri, "--workers", "2") as it, holding(redis.uri), holding(redis.uri):
        sessions = [open_session(it) for _ in range(8)]
        threads = [
            threading.Thread(target=lambda s=s: [answer_of(s, code) for code in ["x = 0", *["x += 1"] * 10]])
            for s in sessions
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [session.value("x") for session in sessions] == ["10"] * 8
