"""Ray workers by fork instead of by import.

Every process of a run imports torch, transformers, ray and verl: four seconds of CPU each, one after the other, with
one process waiting for the next. Here one process imports them once, and each of Ray's workers is a fork of it.

    driver       starts the server, and names the client as Ray's `runtime_env.py_executable`
    client       what Ray starts in place of Python: hands argv, environment, folder and stdio to the server, and lives
                 as long as its worker (`forkclient.py`)
    server       forks a worker that runs Ray's own worker script with them; single-threaded, never touches Ray itself

The server ends with the driver, the workers with the server. On Linux only, as the CPU backend is.
"""

import array
import atexit
import ctypes
import importlib
import json
import logging
import os
import random
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

CLIENT = Path(__file__).with_name("forkclient.py")

# Whatever the workers of a run import. Ray's library reads its environment once, when it is loaded, so it and what
# imports it wait for the first worker's.
_WITHOUT_RAY = (
    "torch.distributed.fsdp",
    "torch._dynamo",
    "tensordict",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen3.modeling_qwen3",
    "datasets",
    "fastapi",
    "httpx",
    "hydra",
)
_WITH_RAY = (
    "verl.trainer.ppo.v1.trainer_sync",
    "verl.workers.engine_workers",
    "verl_cleaner.rollout.agent_loop_worker",
    "verl_cleaner.rollout.code_interpreter",
    "verl_cleaner.engine.cpu.rollout",
)

_PR_SET_PDEATHSIG = 1


def start() -> str:
    """Start the server; returns Ray's `py_executable`. Does not wait for the imports: the clients do."""
    path = Path(tempfile.mkdtemp(prefix="cleaner-fork-")) / "socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(64)
    subprocess.Popen(
        [sys.executable, "-m", "verl_cleaner.engine.cpu.forkserver", str(listener.fileno())],
        pass_fds=[listener.fileno()],
        stdin=subprocess.DEVNULL,
        # Ctrl-C ends the driver, and the server with it.
        start_new_session=True,
    )
    listener.close()
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    # -I -S: the client needs the standard library only, and starts in 20 ms.
    return shlex.join([sys.executable, "-I", "-S", str(CLIENT), str(path)])


def serve(listener: socket.socket) -> NoReturn:
    _die_with_parent()
    for module in _WITHOUT_RAY:
        importlib.import_module(module)
    assert "ray" not in sys.modules
    # Nobody waits for the workers here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        request, fds = _receive(connection)
        if "ray" not in sys.modules:
            _set_environment(request)
            for module in _WITH_RAY:
                importlib.import_module(module)
        if os.fork() == 0:
            listener.close()
            _become_worker(request, fds)
        # The worker's copy stays open until it ends; that is what the client waits for.
        connection.close()
        for fd in fds:
            os.close(fd)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    fds = array.array("i")
    message, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(3 * fds.itemsize))
    for _, _, data in ancillary:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    return json.loads(message), list(fds)


def _become_worker(request: dict[str, Any], fds: list[int]) -> NoReturn:
    _die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    os.chdir(request["cwd"])
    _set_environment(request)
    _forget_the_server()
    sys.argv = request["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def _set_environment(request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["env"])


def _forget_the_server() -> None:
    """What a fresh interpreter would not have, or would have of its own."""
    import numpy as np
    import torch

    atexit._clear()
    random.seed()
    np.random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    for entry in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if entry and entry not in sys.path:
            sys.path.insert(1, entry)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


def _die_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
