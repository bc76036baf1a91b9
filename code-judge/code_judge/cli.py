"""`code-judge`: serve (the service in one process, nothing else needed), workers, bench, soak."""

import argparse
import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from code_judge.bench import run as bench
from code_judge.bench import soak
from code_judge.settings import load_settings
from code_judge.tasks import run_loop


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="code-judge", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve HTTP with an in-process queue")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8088, help="0 = any free port (default: 8088)")
    serve.add_argument("--port-file", type=Path, help="write the service's URL here once it listens")
    serve.add_argument("--parent-pid", type=int, help="end when this process has ended")
    workers = commands.add_parser("workers", help="run programs from the queue at REDIS_URI")
    for command in (serve, workers):
        command.add_argument("--python", help="the programs' interpreter (CODE_JUDGE_PYTHON; default: this one)")
        command.add_argument("--warm", help="modules to keep warm for them, with commas between (CODE_JUDGE_WARM)")
    bench.add_arguments(commands.add_parser("bench", help="measure a judge"))
    soak.add_arguments(commands.add_parser("soak", help="run a service under full load for long"))
    options = parser.parse_args(arguments)
    for name in ("python", "warm"):
        if (value := getattr(options, name, None)) is not None:
            os.environ[f"CODE_JUDGE_{name.upper()}"] = value
    try:
        if options.command == "serve":
            run_loop(_serve(options))
        elif options.command == "workers":
            run_workers()
        elif options.command == "bench":
            bench.main(options)
        else:
            soak.main(options)
    except ValueError as error:
        sys.exit(f"code-judge: error: {error}")
    except KeyboardInterrupt:
        pass


def run_workers() -> None:
    from code_judge.run_workers import main

    main()


async def _serve(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # This command needs nobody else, whatever the environment says of Redis.
    os.environ.setdefault("RUN_WORKERS", "1")
    settings = load_settings()
    listener = _listen(options.host, options.port)
    import uvicorn

    from code_judge.api import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning", timeout_graceful_shutdown=1))
    watch = asyncio.create_task(_watch_parent(server, options.parent_pid))
    # The socket listens already: requests wait in its backlog until the server takes them.
    _announce(f"http://{options.host}:{listener.getsockname()[1]}", options.port_file)
    try:
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port, or --port 0 for a free one"
        ) from None


def _announce(url: str, port_file: Path | None) -> None:
    if port_file is not None:
        # Written whole or not at all.
        temporary = port_file.with_name(f".{port_file.name}.{os.getpid()}")
        temporary.write_text(url + "\n")
        temporary.replace(port_file)
    print(f"code-judge: serving on {url}", flush=True)


async def _watch_parent(server: Any, pid: int | None) -> None:
    if pid is None:
        return
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        server.should_exit = True
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, ended.set)
    await ended.wait()
    server.should_exit = True


if __name__ == "__main__":
    main()
