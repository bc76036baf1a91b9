"""Ray workers by fork instead of by import.

Every process of a run imports torch, transformers, ray and verl. This takes four seconds of CPU in each process, and
the processes start one after the other. Here one process imports them once, and each of Ray's workers is a fork of it.

    driver       starts the server, and names the client as Ray's `runtime_env.py_executable`
    client       Ray starts it instead of Python (`setup_worker.py`); it hands argv, environment, folder and stdio to
                 the server, and lives as long as its worker (`forkclient.py`)
    server       forks a worker, which runs Ray's own worker script with them; it has one thread and does not use Ray

Most of the imports need no Ray. A driver that has yet to import it makes them itself and then forks the server
(`start_early`), so that they are made once for all processes of the run.

The server ends when the driver ends, and the workers end when the server ends. It runs on Linux only, as the whole CPU
backend does.
"""

import array
import atexit
import ctypes
import gc
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
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from wrapt import register_post_import_hook

CLIENT = Path(__file__).with_name("forkclient.py")
SETUP = Path(__file__).with_name("setup_worker.py")

# What the workers of a run import. Ray's library reads the environment when it is loaded; so it, and all that imports
# it, is loaded only with the environment of the first worker.
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

_VLLM = "verl.workers.rollout.vllm_rollout.vllm_async_server"
"""Imported by the rollout server, the trainer's workers and the agent loops."""

_PR_SET_PDEATHSIG = 1

_early: socket.socket | None = None
"""The way to a server that was forked from this process and waits for its orders."""


def modules_for(rollout: str) -> tuple[str, ...]:
    """What the workers of a run import, as `start` takes it. rollout: the name of its engine."""
    return (*_WITH_RAY, _VLLM) if rollout == "vllm" else _WITH_RAY


def start_early() -> None:
    """Fork the server from this process after the imports that both need. It waits for `start`.

    For a process without threads that is to become the driver, before it imports Ray.
    """
    global _early
    assert not {"ray", "verl"} & sys.modules.keys(), "too late: Ray's library has read this process's environment"
    for module in _WITHOUT_RAY:
        importlib.import_module(module)
    _early, orders = socket.socketpair()
    if os.fork() == 0:
        _early.close()
        _serve_early(orders)
    orders.close()


def start(modules: Sequence[str] = _WITH_RAY) -> str:
    """Start the server and return Ray's `py_executable`. The clients wait for the imports; this function does not.

    A Ray that this process starts then sets its workers up by our program.
    modules: what the server imports with the environment of the first worker.
    """
    path = Path(tempfile.mkdtemp(prefix="cleaner-fork-")) / "socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(64)
    if _early is not None:
        socket.send_fds(_early, [json.dumps(list(modules)).encode()], [listener.fileno()])
    else:
        subprocess.Popen(
            [sys.executable, "-m", "verl_cleaner.engine.cpu.forkserver", str(listener.fileno()), *modules],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            # Ctrl-C ends the driver, and the server ends with the driver.
            start_new_session=True,
        )
    listener.close()
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    register_post_import_hook(_use_our_setup, "ray._private.ray_constants")
    # With -I -S the client starts in 20 ms; it needs the standard library only.
    return shlex.join([sys.executable, "-I", "-S", str(CLIENT), str(path)])


def _use_our_setup(constants: ModuleType) -> None:
    # Joined to Ray's own folder, an absolute path stays what it is.
    constants.SETUP_WORKER_FILENAME = str(SETUP)  # type: ignore[attr-defined]


def _serve_early(orders: socket.socket) -> NoReturn:
    """What becomes of the fork; it does not return into what the driver does."""
    try:
        _die_with_parent()
        os.setsid()
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        message, fds, _, _ = socket.recv_fds(orders, 1 << 16, 1)
        if not message:
            # The driver ended before it started anything, with a wrong key for example.
            os._exit(0)
        serve(socket.socket(fileno=fds[0]), json.loads(message))
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def serve(listener: socket.socket, modules: Sequence[str]) -> NoReturn:
    for module in _WITHOUT_RAY:
        importlib.import_module(module)
    assert "ray" not in sys.modules
    # The server does not wait for its workers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        request, fds = _receive(connection)
        if "ray" not in sys.modules:
            _set_environment(request)
            for module in modules:
                importlib.import_module(module)
            # Else the first full collection in each worker visits, and so copies, all that was imported.
            gc.collect()
            gc.freeze()
        if os.fork() == 0:
            listener.close()
            _become_worker(request, fds)
        # The worker keeps its copy open until it ends. The client waits for that.
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
    """Reset what a fork inherits and a new interpreter would not have."""
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
    _die_with_parent()
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
