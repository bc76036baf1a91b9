"""Serve the report of runs that go on: `python -m verl_cleaner.report RUN --serve`.

    GET /          the page; it is made again if the runs have written something since
    GET /events    server-sent events: the version of the page, at once and whenever it changes

An open page loads itself again when the version differs from its own. The page is made only when a browser asks for it.
Without a browser, the cost is one `stat` for each file and interval.
"""

import hashlib
import html
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from verl_cleaner.report.follow import State, state

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEEP_ALIVE = 15.0
"""Seconds after which a line is sent on a connection without events."""
_SHARE = 5
"""Making the page takes at most one fifth of the time, because the run needs the processors."""
_WAITING = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="{seconds}">
<title>CLEANER</title><body style="font: 16px system-ui; margin: 3em"><p>{text}</p></body></html>
"""


class Page:
    """The report of the runs in `paths`, made when somebody asks for it.

    make: version -> HTML; the version is part of the page, so that the page knows whether it is still the newest.
    """

    def __init__(self, paths: Sequence[Path], make: Callable[[str], str]) -> None:
        self._paths, self._make = paths, make
        self._making = threading.Lock()
        self._changed = threading.Condition()
        self._state: State | None = None
        self._version = self._made = ""
        self._html = ""
        self._earliest = 0.0
        self.closed = False

    def look(self) -> bool:
        """Look at the files once; True if there is a new version.

        Raises:
            ValueError: a path is no folder.
        """
        found = state(self._paths)
        if found is None or found == self._state or time.monotonic() < self._earliest:
            return False
        with self._changed:
            self._state = found
            self._version = hashlib.sha256(repr(found).encode()).hexdigest()[:16]
            self._changed.notify_all()
        return True

    def html(self) -> str:
        """Of the newest version. Raises ValueError where the runs have nothing to show yet."""
        with self._making:
            version = self._version
            if not version:
                raise ValueError("Waiting for the first metrics or trajectories of the run.")
            if version != self._made:
                begin = time.monotonic()
                self._html = self._make(version)
                self._made = version
                self._earliest = time.monotonic() + _SHARE * (time.monotonic() - begin)
            return self._html

    def next_version(self, known: str, timeout: float) -> str:
        """The newest version; waits while it is `known`, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._version != known, timeout)
            return self._version

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], page: Page) -> None:
        """Raises ValueError where the address cannot be bound."""
        self.page = page
        try:
            super().__init__(address, _Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"--host {address[0]} --port {address[1]} cannot be bound: {error}; name another port, or 0 for a "
                "free one"
            ) from error

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}/"  # type: ignore[str-bytes-safe]

    def takes(self, host: str | None) -> bool:
        """host: of the request. A name of a foreign site that points here must not read the runs (DNS rebinding)."""
        if self.server_address[0] not in _LOOPBACK:
            return True
        try:
            return urlsplit(f"//{host}").hostname in _LOOPBACK
        except ValueError:
            return False


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        try:
            if not self.server.takes(self.headers.get("Host")):
                self._send(HTTPStatus.FORBIDDEN, "Open the page as localhost, or start it with --host.", "text/plain")
            elif path == "/":
                self._page()
            elif path == "/events":
                self._events()
            else:
                self._send(HTTPStatus.NOT_FOUND, "There is only the report at / here.", "text/plain")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader has closed the page

    def _page(self) -> None:
        try:
            self._send(HTTPStatus.OK, self.server.page.html())
        except (ValueError, OSError) as error:
            text = _WAITING.format(seconds=3, text=html.escape(str(error)))
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, text)

    def _events(self) -> None:
        self._head(HTTPStatus.OK, "text/event-stream")
        known = ""
        while not self.server.page.closed:
            version = self.server.page.next_version(known, _KEEP_ALIVE)
            line = f"data: {version}\n\n" if version != known else ": nothing new\n\n"
            known = version
            self.wfile.write(line.encode())
            self.wfile.flush()

    def _send(self, status: HTTPStatus, text: str, kind: str = "text/html") -> None:
        body = text.encode("utf-8", "replace")
        self._head(status, f"{kind}; charset=utf-8", length=len(body))
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """No line for each request."""


def serve(paths: Sequence[Path], make: Callable[[str], str], *, host: str, port: int, interval: float) -> None:
    """Serve until Ctrl-C. make: version -> HTML. interval: seconds between two looks at the files.

    Raises:
        ValueError: the address cannot be bound, or a path is no folder.
    """
    page = Page(paths, make)
    page.look()
    with Server((host, port), page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        print(f"the report is at {server.url} (Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(interval)
                if page.look():
                    print(time.strftime("%H:%M:%S"), "new data", flush=True)
        except KeyboardInterrupt:
            print()
        finally:
            page.close()
            server.shutdown()
            thread.join()
