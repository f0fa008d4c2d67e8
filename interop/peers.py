"""What the tests against other people's programs share."""

from __future__ import annotations

import http.server
import threading
import time

import meshlib

WAIT = 30.0  # seconds; how long anything may take on a busy machine


def eventually(condition, what):
    """Wait until a condition holds; returns what it returned."""
    until = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {WAIT} s: {what}"
        time.sleep(0.02)
    return found


class Backend:
    """A server that answers with its name; ``endpoint`` is where."""

    def __init__(self, name):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = name.encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.endpoint = {"address": "127.0.0.1", "port": self._server.server_address[1]}

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def answers(ask, url, name):
    """Tell whether a URL is answered by this backend now; a mesh error is a no."""
    try:
        return ask(url) == name
    except meshlib.MeshError:
        return False
