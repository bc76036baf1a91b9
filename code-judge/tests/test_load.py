"""A loaded machine delays a verdict and never changes it."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from judge_harness import Judge, judge
from session_harness import open_session
from test_redis import in_background

from code_judge.admission import ACTIVE_PER_CORE, YOUNG_PER_CORE, Admission
from code_judge.sandbox import census, limits, processes
from code_judge.sandbox.box import Box
from code_judge.sandbox.limits import LATE_WALL, MOST_WALL, Clock
from code_judge.sandbox.session_end import AtRest
from code_judge.sandbox.watch import FEW_OLD_NICENESS, MOST_OLD, OLD_NICENESS, OLD_SECONDS, Job, Watch

LIMIT = 4
COMPUTE = "import time\nwhile time.process_time() < 0.4: pass\nprint({n})"
MIXED = {
    "compute": (COMPUTE, "ok"),
    "numpy": ("import numpy as np\nprint(int(np.ones((80, 80)).dot(np.ones((80, 80)))[0, 0]) * {n})", "ok"),
    "in a child": (
        "import subprocess, sys\n"
        "code = 'import time\\nwhile time.process_time() < 0.3: pass'\n"
        "for _ in range(2): subprocess.run([sys.executable, '-c', code], check=True)\nprint({n})",
        "ok",
    ),
    "in a thread": (
        "import threading, time\ndef f():\n    while time.thread_time() < 0.3: pass\n"
        "t = threading.Thread(target=f)\nt.start()\nt.join()\nprint({n})",
        "ok",
    ),
    "loop": ("# {n}\nwhile True: pass", "timeout"),
    "sleeper": ("# {n}\nimport time\ntime.sleep(60)", "timeout"),
    "short sleep": ("import time\ntime.sleep(1)\nprint({n})", "ok"),
}


# A host whose cores do other things for minutes is told as an outage, no verdict.
@pytest.mark.alone
@pytest.mark.parametrize("slots", [2, 16, 64])
def test_the_same_batch_gets_the_same_verdicts_at_any_number_of_slots(slots: int) -> None:
    names = ["compute"] * 32 + ["numpy"] * 8 + ["loop", "sleeper"] * 2
    names += ["in a child", "in a thread", "short sleep"] * 2
    random.Random(0).shuffle(names)
    programs = [MIXED[name][0].format(n=n) for n, name in enumerate(names)]
    with judge(MAX_EXECUTION_TIME=LIMIT, MAX_WORKERS=slots) as it:
        it.http.timeout = 300
        results = it.run_all(programs)
    assert [result["kind"] for result in results] == [MIXED[name][1] for name in names]


@pytest.mark.alone
def test_loops_and_sleepers_end_on_time(served: Judge) -> None:
    """Within the limit's own second and a half, on a machine that is not busy otherwise."""
    for program in ("while True: pass", "import time\ntime.sleep(60)"):
        result = served.run(program)
        assert result["reason"] == "worker_timeout"
    assert 2 <= result["cost"] < 3.5


def run_clock(clock: Clock, pattern: list[tuple[float, float, bool]]) -> Clock:
    """pattern: seconds, CPU seconds in them, whether the program is busy at their end."""
    now, cpu = clock.start, 0.0
    for seconds, spent, busy in pattern:
        now, cpu = now + seconds, cpu + spent
        clock.observe(now, cpu=cpu, busy=busy)
    return clock


@pytest.mark.parametrize(
    ("pattern", "used", "over"),
    [
        ([(0.1, 0.1, True)] * 39, 3.9, False),
        ([(0.1, 0.1, True)] * 40, 4.0, True),
        ([(0.1, 0.0, False)] * 40, 4.0, True),
        ([(0.1, 0.2, True)] * 20, 4.0, True),
        # Waits for a core nine tenths of its time.
        ([(0.1, 0.01, True)] * 390, 3.9, False),
        ([(0.1, 0.01, True)] * 400, 4.0, True),
        # Sleeps for half of its time, and waits for a core in the rest.
        ([(0.1, 0.0, False), (0.1, 0.05, True)] * 26, 3.9, False),
        ([(0.1, 0.0, False), (0.1, 0.05, True)] * 27, 4.05, True),
        # Waits for a core, but not in the moment of a look that comes late.
        ([(5.0, 0.01, True), (5.0, 0.01, False)], 0.27, False),
        # Sleeps, and all looks come late.
        ([(2.0, 0.0, False)] * 16, 4.0, True),
    ],
)
def test_the_clock(pattern: list[tuple[float, float, bool]], used: float, over: bool) -> None:
    clock = run_clock(Clock(limit=LIMIT - 1e-6, start=100.0, seen=100.0), pattern)
    assert clock.used == pytest.approx(used)
    assert clock.is_over() is over
    assert not clock.is_starved()


def test_a_program_that_is_never_given_a_core_is_the_hosts_failure() -> None:
    clock = run_clock(Clock(limit=1, start=0.0, seen=0.0), [(1.0, 0.001, True)] * MOST_WALL)
    assert clock.is_starved()
    assert not clock.is_over()


def test_old_programs_give_way_until_they_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest as many as there are cores a little, the others much; a late one not at all, before it is given up."""
    given: dict[int, int] = {}
    monkeypatch.setattr(processes, "give_way", lambda pid, uid, pids, niceness: given.update({pid: niceness}))
    watch = Watch(own_processes=True, template=1, kill=lambda *_: None, tell=lambda *_: None)
    jobs = [
        Job(n, n, Box("/box/1", 1, True), Clock(limit=1, start=0.0, seen=0.0, cpu=OLD_SECONDS), 1, True)
        for n in range(MOST_OLD + 3)
    ]
    watch._share(jobs)
    assert list(given.values()) == [FEW_OLD_NICENESS] * MOST_OLD + [OLD_NICENESS] * 3
    jobs[-1].clock.observe(LATE_WALL, cpu=OLD_SECONDS, busy=True)
    assert jobs[-1].clock.is_late()
    assert not jobs[-1].clock.is_starved()
    watch._share(jobs)
    assert list(given.values()) == [FEW_OLD_NICENESS] * MOST_OLD + [OLD_NICENESS] * 2 + [0]
    # Where each has a core, none gives way.
    watch._share(jobs[:MOST_OLD])
    assert list(given.values())[:MOST_OLD] == [0] * MOST_OLD


def test_a_dropped_state_that_has_yet_to_end_counts_for_no_cell() -> None:
    """Killing it takes time on a loaded host, and it has used as much as all the cells that it ran."""
    burn = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint(); input()"
    command = [sys.executable, "-c", burn]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, start_new_session=True) as state:
        assert state.stdout is not None
        state.stdout.readline()
        found = census.take(own_processes=False, template_space=0)
        assert found[state.pid].cpu > 0.15
        spare = AtRest(states=set(), running=set(), dropped={state.pid})
        assert state.pid not in census.take(own_processes=False, template_space=0, spare=spare)
        state.kill()


@pytest.mark.parametrize("where", ["program", "cell"])
def test_time_in_which_we_do_not_read_what_a_program_writes_does_not_count(where: str) -> None:
    """What fits into a pipe is 64 KiB."""
    writes = "import time\ntime.sleep(0.5)\nprint('x' * 300_000)"
    with judge(MAX_EXECUTION_TIME=1.5) as it:
        run = open_session(it).run if where == "cell" else it.run
        run("1")
        result = in_background(lambda: run(writes))
        time.sleep(0.25)
        it.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        it.process.send_signal(signal.SIGCONT)
        answer = result.result(30)
    assert answer["kind"] == "ok", answer
    assert answer["cost"] > 2.5


VFORK = "import ctypes, time\nif ctypes.CDLL(None).vfork() == 0: time.sleep(60)"
"""Its first process is in uninterruptible sleep as long as its second one sleeps."""


def test_a_program_that_waits_for_its_child_by_vfork_uses_up_its_time() -> None:
    with judge(MAX_EXECUTION_TIME=1) as it:
        assert it.run(VFORK)["kind"] == "timeout"


@pytest.mark.parametrize(
    ("state", "wchan", "runnable", "blocked"),
    [
        ("R", "0", True, False),
        ("S", "futex_wait_queue", False, False),
        ("D", "unlink_file_vma_batch_process", False, True),
        ("D", "kernel_clone", False, False),
        # The kernel does not say.
        ("D", "fork", False, False),
    ],
)
def test_what_a_program_waits_for(
    monkeypatch: pytest.MonkeyPatch, state: str, wchan: str, runnable: bool, blocked: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=PIPE, start_new_session=True) as process:
        stat = census.read_stat(process.pid)
        assert stat is not None
        told = [state.encode(), *stat[1:]]
        monkeypatch.setattr(census, "read_stat", lambda _: told)
        monkeypatch.setattr(census, "_waits_in", lambda _: wchan)
        usage = census.take(own_processes=False, template_space=0)[process.pid]
        assert (usage.runnable, usage.blocked) == (runnable, blocked)
        process.kill()


def test_waits_for_the_kernel_count_once_a_program_is_late(tmp_path: Path) -> None:
    """A lock of the kernel may be held for long by others, and a program can wait for a disk for ever."""
    told: list[str] = []
    watch = Watch(own_processes=True, template=1, kill=lambda _, why: told.append(why), tell=lambda _: None)
    job = Job(1, 1, Box(str(tmp_path), 1, True), Clock(limit=1, start=0.0, seen=0.0), 1 << 50, True)
    blocked = census.Usage(blocked=True)
    for look in range(1, 100):
        watch._check(job, blocked, look * 0.1)
        if told:
            break
    assert told == ["timeout"]
    assert LATE_WALL + 0.9 < job.clock.seen < LATE_WALL + 1.3


KERNEL_WEIGHT = {0: 1024, FEW_OLD_NICENESS: 335, OLD_NICENESS: 15}
"""The shares of what wants a core."""


def loops_that_end(monkeypatch: pytest.MonkeyPatch, *, others: int) -> float:
    """The share of endless loops that use up their limit of 1 s, beside so many others a core that want one. The
    kernel's scheduler is imitated, and what ours does is real."""
    cores, now, ended, started, step = MOST_OLD, 0.0, 0, 0, 0.05
    niceness: dict[int, int] = {}
    monkeypatch.setattr(processes, "give_way", lambda pid, uid, pids, nice: niceness.update({pid: nice}))
    watch = Watch(own_processes=True, template=1, kill=lambda *_: None, tell=lambda *_: None)
    jobs: list[Job] = []
    while started < 15 * cores or jobs:
        while started < 15 * cores and len(jobs) < ACTIVE_PER_CORE * cores:
            clock = Clock(limit=1, start=now, seen=now)
            jobs.append(Job(started, started, Box("/box/1", 1, True), clock, 1, True))
            started += 1
        watch._share(jobs)
        weights = [KERNEL_WEIGHT[niceness.get(job.pid, 0)] for job in jobs]
        whole = sum(weights) + KERNEL_WEIGHT[0] * others * cores
        now += step
        for job, weight in zip(jobs, weights, strict=True):
            used = job.clock.cpu + step * min(1.0, cores * weight / whole)
            job.clock.observe(now, cpu=used, busy=True)
        ended += sum(job.clock.is_over() for job in jobs)
        jobs = [job for job in jobs if not job.clock.is_over() and not job.clock.is_starved()]
    return ended / started


def test_late_programs_that_give_way_no_longer_get_their_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to ten times as many others as cores; without it, half get none beside twice as many."""
    assert [loops_that_end(monkeypatch, others=n) for n in (0, 2, 4, 10)] == [1, 1, 1, 1]
    monkeypatch.setattr(limits, "LATE_WALL", MOST_WALL)
    found = [loops_that_end(monkeypatch, others=n) for n in (0, 2, 4, 10)]
    assert found[0] == 1
    assert found[1] < 0.6
    assert found[2] < 0.3
    assert found[3] == 0


def test_a_process_that_nobody_waited_for_takes_no_time_back() -> None:
    clock = Clock(limit=4, start=0.0, seen=0.0)
    for cpu in (1.0, 0.2, 1.5):
        clock.observe(clock.seen + 2, cpu=cpu, busy=True)
    assert clock.cpu == pytest.approx(1.5)


def test_admission_counts_slots_young_programs_and_those_that_want_a_core() -> None:
    admission = Admission(slots=64, cores=2)
    assert admission.room() == 2 * YOUNG_PER_CORE
    for program in range(2 * YOUNG_PER_CORE):
        admission.add(program)
    assert admission.room() == 0
    for program in range(2 * ACTIVE_PER_CORE):
        admission.add(program)
        admission.grow(program)
    assert admission.room() == 0
    admission.set_idle(3, True)
    assert admission.room() == 1
    admission.set_idle(3, False)
    assert admission.room() == 0
    for program in range(40):
        admission.set_idle(program, True)
    assert len(admission) == 16
    assert admission.room() == 2 * YOUNG_PER_CORE
    admission.remove(3)
    assert admission.room() == 2 * YOUNG_PER_CORE
    assert Admission(slots=2, cores=2).room() == 2
