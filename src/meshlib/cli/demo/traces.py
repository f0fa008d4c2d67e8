"""An OTLP/HTTP receiver for the demo, and one trace as a tree."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from meshlib.errors import MeshError

_KINDS = {0: "INTERNAL", 1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


@dataclass(frozen=True, slots=True)
class Span:
    """One span, as OTLP carried it.

    Attributes:
        parent_id: hex id of the parent, empty for none.
        service: `service.name` of the process that made it.
        kind: SERVER, CLIENT, INTERNAL…
        start: Unix time, seconds.
        duration_ms: milliseconds.
        error: why the span's status is ERROR, empty when it is not.
        attributes: everything the process said of it.
    """

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    start: float
    duration_ms: float
    error: str
    attributes: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the span for JSON, with what the story tells of it beside its attributes."""
        told = {"attempt": self.attempt, "endpoint": self.endpoint, "status": self.status}
        return {**asdict(self), **told}

    @property
    def status(self) -> int | None:
        """The HTTP status of the response; None where there was none."""
        # The stable name of OpenTelemetry's conventions, then the one Envoy still uses.
        value = self.attributes.get("http.response.status_code", self.attributes.get("http.status_code"))
        return int(value) if value else None

    @property
    def endpoint(self) -> str:
        """`address:port` that was called; empty where the span does not say."""
        if address := self.attributes.get("network.peer.address"):
            return f"{address}:{self.attributes.get('network.peer.port', '')}".rstrip(":")
        return str(self.attributes.get("upstream_address", ""))

    @property
    def attempt(self) -> int | None:
        """The number of the attempt that this span is; None for every other span.

        The span of a whole call names its cluster, the span of an attempt only its peer.
        """
        if "network.peer.address" not in self.attributes or "upstream_cluster" in self.attributes:
            return None
        return int(self.attributes.get("http.request.resend_count", 0)) + 1


class SpanReceiver:
    """Takes spans at ``POST /v1/traces`` (OTLP over HTTP, protobuf), as a collector would.

    A context manager; the server runs in a thread of its own and keeps every span until the
    receiver is garbage. Thread-safe.
    """

    def __init__(self, port: int) -> None:
        import uvicorn

        self._spans: list[Span] = []
        options: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "off", "ws": "none"}
        config = uvicorn.Config(self._serve, host="127.0.0.1", port=port, interface="asgi3", **options)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="demo-otlp", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise MeshError("the demo's trace receiver could not start")
            time.sleep(0.005)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.should_exit = True
        self._thread.join(5)

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace that have arrived, by start."""
        return sorted((span for span in tuple(self._spans) if span.trace_id == trace_id), key=lambda span: span.start)

    async def _serve(self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        found = scope["method"] == "POST" and scope["path"] == "/v1/traces"
        if found:
            headers = dict(scope["headers"])
            self._spans += decode(gzip.decompress(body) if headers.get(b"content-encoding") == b"gzip" else body)
        start = {"type": "http.response.start", "status": 200 if found else 404}
        await send({**start, "headers": [(b"content-type", b"application/x-protobuf")]})
        await send({"type": "http.response.body", "body": b""})  # an empty ExportTraceServiceResponse


def decode(body: bytes) -> Iterator[Span]:
    """Yield the spans of an OTLP ``ExportTraceServiceRequest``."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource_spans.resource.attributes).get("service.name", "unknown")
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                attributes = _attributes(span.attributes)
                failed = span.status.code == 2
                yield Span(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    service=service,
                    name=span.name,
                    kind=_KINDS.get(span.kind, "INTERNAL"),
                    start=span.start_time_unix_nano / 1e9,
                    duration_ms=round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e6, 3),
                    error=(span.status.message or str(attributes.get("error.type", "error"))) if failed else "",
                    attributes=attributes,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind in ("string_value", "bool_value", "int_value", "double_value"):
        return getattr(value, kind)
    return None


def children(spans: Sequence[Span], parent_id: str) -> list[Span]:
    """Return the spans directly below ``parent_id``, by start."""
    return [span for span in spans if span.parent_id == parent_id]


def roots(spans: Sequence[Span]) -> list[Span]:
    """Return the spans whose parent is not among ``spans``: the caller's own is never exported."""
    known = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id not in known]
