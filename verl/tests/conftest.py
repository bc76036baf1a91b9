"""What tests share: a judge that answers to /ping, a browser, and Python's limits as they are at the start."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


class Pong(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps("pong").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def judge():
    """Its address."""
    with HTTPServer(("127.0.0.1", 0), Pong) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; without it the test is skipped."""
    import report_page

    driver = report_page.start()
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def limit_of_integers():
    """What reads tests of programs lifts Python's limit of digits for the whole process; no test meets another's."""
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
