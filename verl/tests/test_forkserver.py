"""Ray's workers as forks: what they must not share, and that none is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import verl

from verl_cleaner import main_ppo
from verl_cleaner.engine.cpu import forkserver

# Plays the driver: two workers that report, then one that stays.
DRIVER = """
import json, os, shlex, subprocess, sys
from verl_cleaner.engine.cpu import forkserver

folder, early = sys.argv[1:]
if early:
    forkserver.start_early()
client = shlex.split(forkserver.start())
os.environ["RAY_JOB_ID"] = "01000000"
for name in ("first", "second"):
    environment = os.environ | {"WORKER": name, "OMP_NUM_THREADS": "1"}
    subprocess.run([*client, "-u", folder + "/report.py", name], env=environment, cwd=folder, check=True)
stays = subprocess.Popen([*client, "-u", folder + "/stay.py"])
print("started", flush=True)
stays.wait()
"""

REPORT = """
import json, os, random, sys
import numpy as np, torch
print(json.dumps({
    "argv": sys.argv, "name": __name__, "worker": os.environ["WORKER"], "cwd": os.getcwd(), "pid": os.getpid(),
    "server": os.getppid(),
    "preloaded": "verl_cleaner.rollout.agent_loop_worker" in sys.modules,
    "random": [random.random(), float(np.random.rand())],
    "threads": torch.get_num_threads(), "reaps": os.waitstatus_to_exitcode(os.system("exit 3")),
}))
"""

STAY = """
import os, pathlib, time
pathlib.Path(__file__).with_name("pids").write_text(f"{os.getpid()} {os.getppid()}")
time.sleep(600)
"""


@pytest.fixture(scope="module", params=["", "early"])
def driver(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("fork")
    (folder / "report.py").write_text(REPORT)
    (folder / "stay.py").write_text(STAY)
    environment = os.environ | {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(folder), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        lines = []
        while not lines or lines[-1].strip() not in ("started", ""):
            lines.append(process.stdout.readline())
        reports = [json.loads(line) for line in lines if line.startswith("{")]
        yield folder, process, reports
        process.kill()


def test_workers_run_the_script_as_python_would(driver):
    folder, _, reports = driver
    for report, name in zip(reports, ("first", "second"), strict=True):
        assert report["argv"] == [f"{folder}/report.py", name]
        assert report["name"] == "__main__"
        assert report["worker"] == name
        assert Path(report["cwd"]) == folder
        assert report["threads"] == 1
        assert report["reaps"] == 3


def test_the_imports_are_there_and_the_random_numbers_differ(driver):
    _, _, (first, second) = driver
    assert first["preloaded"]
    assert second["preloaded"]
    assert first["pid"] != second["pid"]
    assert not set(first["random"]) & set(second["random"])


def test_a_server_is_forked_from_the_driver_or_a_program_of_its_own(driver, request):
    _, process, (first, _) = driver
    is_fork = Path(f"/proc/{first['server']}/cmdline").read_bytes() == Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert is_fork == ("early" in request.node.name)
    # Ctrl-C in a terminal is for the driver.
    assert os.getsid(first["server"]) == first["server"]
    assert os.readlink(f"/proc/{first['server']}/fd/0") == os.devnull


def test_a_driver_that_ends_before_it_starts_anything_says_nothing_of_the_server():
    program = (
        "from verl_cleaner.engine.cpu import forkserver; forkserver.start_early(); raise SystemExit('a wrong key')"
    )
    # The output ends when the last process that has it ends.
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert process.stderr == "a wrong key\n"


def test_a_killed_driver_leaves_no_process_behind(driver):
    folder, process, _ = driver
    pids = wait_for(lambda: (folder / "pids").exists() and (folder / "pids").read_text().split())
    assert len(pids) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_for(lambda: not any(alive(pid) for pid in pids))


def alive(pid):
    """A zombie, which waits for its parent only, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    return condition()


# ---- a worker's set-up -----------------------------------------------------------------------------------------------

WORKER = """
import json, os, sys
found = {name: os.environ.get(name) for name in ("ONE", "TWO", "BY")}
print(json.dumps(found | {"argv": sys.argv[1:], "isolated": sys.flags.isolated}))
"""


def set_up(program, folder, **context):
    """What a worker finds that this program set up."""
    (folder / "worker.py").write_text(WORKER)
    context = {"py_executable": f"'{sys.executable}' -I", "env_vars": {"ONE": "1"}, "java_jars": []} | context
    arguments = [f"--serialized-runtime-env-context={json.dumps(context)}", "--language=PYTHON"]
    command = [sys.executable, *program, *arguments, "-u", folder / "worker.py", "--node=a b"]
    return json.loads(subprocess.check_output(command, text=True, env=os.environ | {"BY": "us"}))


RAYS = ["-m", "ray._private.workers.setup_worker"]


@pytest.mark.parametrize(
    ("context", "found"),
    [
        ({}, {"isolated": 1, "ONE": "1"}),
        ({"env_vars": {"ONE": "${BY}", "TWO": "${NOT_SET}x$BY"}}, {"ONE": "us", "TWO": "xus"}),
        # Ours does not know it.
        ({"command_prefix": ["export TWO=2;"]}, {"TWO": "2"}),
    ],
)
def test_a_worker_is_set_up_as_ray_does_it(tmp_path, context, found):
    ours = set_up([forkserver.SETUP], tmp_path, **context)
    assert ours["argv"] == ["--node=a b"]
    assert found.items() <= ours.items()
    assert ours == set_up(RAYS, tmp_path, **context)


def test_the_set_up_imports_no_ray(tmp_path):
    """Which is what it is for."""
    ray = tmp_path / "ray"
    ray.mkdir()
    (ray / "__init__.py").write_text("raise SystemExit('imported')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    context = json.dumps({"py_executable": "echo started"})
    command = [
        sys.executable,
        forkserver.SETUP,
        f"--serialized-runtime-env-context={context}",
        "--language=PYTHON",
        "x",
    ]
    assert subprocess.check_output(command, text=True, env=environment) == "started x\n"


@pytest.mark.parametrize(
    ("words", "platform", "expected"),
    [
        (["--config-name=quickstart", "a=b"], "", True),
        (["--config-name", "cleaner_cpu"], "", True),
        (["trainer.device=cpu"], "", True),
        ([], "cpu", True),
        (["--config-name=cleaner", "a=cleaner_cpu"], "", False),
    ],
)
def test_the_server_is_forked_early_where_the_command_line_says_cpu(monkeypatch, words, platform, expected):
    started = []
    monkeypatch.setenv("VERL_PLATFORM", platform)
    monkeypatch.setattr(forkserver, "start_early", lambda: started.append(True))
    monkeypatch.setattr(main_ppo, "_set_threads", lambda: None)
    main_ppo.start_early(words)
    assert bool(started) == expected


def test_vllms_server_is_imported_once_and_only_where_it_is_used():
    (module,) = set(forkserver.modules_for("vllm")) - set(forkserver.modules_for("cpu"))
    # Its package refuses to be imported without vLLM.
    assert (Path(verl.__file__).parents[1] / module.replace(".", "/")).with_suffix(".py").is_file()
