"""Server-side tracing in one screen: continue the caller's trace, export by OTLP.

Each example service is a program of its own, so each carries this file; they are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNTRACED = frozenset({"/health", "/stats"})  # asked every few milliseconds, and of no interest


class TraceRequests:
    """Makes one SERVER span a request, as a child of what the caller's headers say."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"], "url.scheme": scope["scheme"]}
        tracer = trace.get_tracer("examples")
        name = f"{scope['method']} {scope['path']}"
        with tracer.start_as_current_span(name, extract(headers), SpanKind.SERVER, attributes) as span:

            async def noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self.app(scope, receive, noting)


@contextmanager
def exporting(service: str, version: str) -> Iterator[None]:
    """Export spans while the context lasts, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector.

    A span leaves after 0.2 s at the latest, and the last ones when the context ends.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = {"service.name": os.environ.get("OTEL_SERVICE_NAME", service), "service.version": version}
    provider = TracerProvider(resource=Resource.create(resource))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=2), schedule_delay_millis=200))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
