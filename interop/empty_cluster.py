"""A Kubernetes API in which there is nothing, so that istiod, which will not start without one, reads files alone."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
_INVALID = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422}
_METADATA = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        parts = url.path.strip("/").split("/")
        if url.path == "/version":
            self._answer(200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
        elif "sendInitialEvents" in asked:
            self._answer(422, _INVALID)  # the client falls back to a list
        elif "watch" in asked:
            self._watch()
        elif parts[0] == "api" and len(parts) == 1:
            self._answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif parts == ["apis"]:
            self._answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        elif _is_list(parts):
            # Without a kind, the client takes it for the list that it asked for.
            kind = _METADATA if "PartialObjectMetadataList" in self.headers.get("accept", "") else {}
            self._answer(200, {**kind, "metadata": {"resourceVersion": "1"}, "items": []})
        else:
            self._answer(404, _NOT_FOUND)

    def do_POST(self) -> None:
        """Believe in whatever is made, and keep nothing."""
        self._answer(201, json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}"))

    do_PUT = do_PATCH = do_POST

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _watch(self) -> None:
        """Nothing ever happens."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.flush()
        self.server.over.wait()  # type: ignore[attr-defined]  # our own server's
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


def _is_list(parts: list[str]) -> bool:
    """Tell ``/api/v1/pods`` and ``/apis/apps/v1/namespaces/x/deployments`` from one object's path."""
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    return len(rest) == 1


class EmptyCluster:
    """The API on a free port; ``kubeconfig`` leads to it."""

    def __init__(self, folder: Path) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.over = threading.Event()  # type: ignore[attr-defined]  # what ends every watch
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        named = {"name": "empty"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [named | {"cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [named | {"user": {}}],
            "contexts": [named | {"context": {"cluster": "empty", "user": "empty"}}],
            "current-context": "empty",
        }
        self.kubeconfig = folder / "kubeconfig.json"
        self.kubeconfig.write_text(json.dumps(config))

    def stop(self) -> None:
        self._server.over.set()  # type: ignore[attr-defined]  # as above
        self._server.shutdown()
        self._server.server_close()
