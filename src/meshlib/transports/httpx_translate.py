"""httpx's words in policy's and back: requests to views, attempts to requests, exceptions to outcomes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx

from meshlib.model.request import RequestView
from meshlib.policy.effects import Attempt, Mirror, Outcome, Reply, ReplyKind, Restart
from meshlib.policy.headers import Edit
from meshlib.transports import httpx_errors
from meshlib.transports.httpx_exchange import Exchange, Timeouts, with_record
from meshlib.upstream.clock import AttemptClock
from meshlib.upstream.pools import ATTEMPT, Dial
from meshlib.upstream.tls import Handshake

SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
DEFAULT_PORTS = {"http": 80, "https": 443}


def view_of(request: httpx.Request) -> RequestView:
    """Return what policy may read of ``request``; raises ``httpx.UnsupportedProtocol``."""
    url = request.url
    scheme = SCHEMES.get(url.scheme)
    if scheme is None:
        what = f"an unsupported protocol '{url.scheme}://'" if url.scheme else "no protocol"
        raise httpx.UnsupportedProtocol(f"Request URL has {what}: 'http://' or 'https://' is expected.")
    headers = [(key.decode("latin-1").lower(), value.decode("latin-1")) for key, value in request.headers.raw]
    return RequestView(
        method=request.method.upper(),
        scheme=scheme,
        host=url.raw_host.decode("ascii").lower(),
        port=url.port or DEFAULT_PORTS.get(scheme, 80),
        authority=next((value for key, value in headers if key == "host"), "") or url.netloc.decode("ascii"),
        target=url.raw_path.decode("ascii"),
        headers=headers,
        replayable=isinstance(request.stream, httpx.ByteStream),
    )


class Upload(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A streamed request body for one attempt: first what earlier attempts sent, then what is left of it.

    It starts the attempt's timeouts when the whole body has been produced.

    Args:
        exchange: the call; its body is begun once, whatever the attempts.
        clock: the attempt's.
    """

    def __init__(self, exchange: Exchange, clock: AttemptClock) -> None:
        self._exchange = exchange
        self._clock = clock

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        yield from self._kept()
        if exchange.body is None:
            exchange.body = iter(exchange.sent.stream)  # type: ignore[arg-type]  # a blocking client's
        for part in exchange.body:
            self._count(part)
            yield part
        self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange = self._exchange
        for part in self._kept():
            yield part
        if exchange.body is None:
            exchange.body = aiter(exchange.sent.stream)  # type: ignore[arg-type]  # an async client's
        async for part in exchange.body:
            self._count(part)
            yield part
        self._end()

    def _kept(self) -> Sequence[bytes]:
        """Return what went out before, where an attempt repeats it."""
        kept = self._exchange.call.kept
        return () if kept is None else tuple(kept.parts)

    def _count(self, part: bytes) -> None:
        exchange = self._exchange
        exchange.call.record.bytes_sent += len(part)
        if exchange.call.kept is not None:
            exchange.call.kept.add(part)
        if exchange.tee is not None:
            exchange.tee.add(part)

    def _end(self) -> None:
        self._clock.start()
        if self._exchange.tee is not None:
            self._exchange.tee.finish()


def attempt_headers(exchange: Exchange, effect: Attempt) -> list[tuple[bytes, bytes]]:
    """Return the headers of one attempt: the request's own but for those removed, and what the attempt sets."""
    replaced = {name.encode("latin-1") for name, _ in effect.headers}
    if effect.removed:
        replaced.update(name.encode("latin-1") for name in effect.removed)
    headers = [pair for pair in exchange.sent.headers.raw if pair[0].lower() not in replaced]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in effect.headers]
    if effect.authority != exchange.call.view.authority:
        headers = [pair for pair in headers if pair[0].lower() != b"host"]
        headers.insert(0, (b"Host", effect.authority.encode("latin-1")))
    return headers


def attempt_stream(exchange: Exchange, clock: AttemptClock) -> Any:
    """Return the body of one attempt; what is sent of it is counted."""
    view, record = exchange.call.view, exchange.call.record
    if view.replayable:
        record.bytes_sent = int(view.header("content-length") or 0)
        return exchange.sent.stream
    return Upload(exchange, clock)


def attempt_request(
    exchange: Exchange, effect: Attempt, secured: Handshake | None, clock: AttemptClock
) -> httpx.Request:
    """Return one attempt as httpx's transports take it: the logical URL, and where to dial in its extensions."""
    request, view = exchange.sent, exchange.call.view
    url = request.url
    if effect.target != view.target:
        url = url.copy_with(raw_path=effect.target.encode("ascii"))
    extensions = dict(request.extensions)
    extensions["timeout"] = exchange.timeouts.for_attempt(effect)
    extensions[ATTEMPT] = Dial(effect.cluster, effect.endpoint, exchange.tls, secured)
    headers, stream = attempt_headers(exchange, effect), attempt_stream(exchange, clock)
    return httpx.Request(request.method, url, headers=headers, stream=stream, extensions=extensions)


def request_of(view: RequestView, like: httpx.Request, stream: Any) -> httpx.Request:
    """Return another request of the same call: what an internal redirect leads to, or a copy of it.

    Args:
        view: what to ask for; its headers are all there are.
        like: the request it comes from. What it is sent over stays the same, whatever scheme ``view`` has.
        stream: the body.
    """
    url = like.url.copy_with(raw_path=view.target.encode("ascii"))
    with contextlib.suppress(httpx.InvalidURL):  # "[::1]-shadow", say; where to dial is not the URL's business
        url = url.copy_with(netloc=view.authority.encode("latin-1"))
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in view.headers]
    return httpx.Request(view.method, url, headers=headers, stream=stream)


def restarted(exchange: Exchange, effect: Restart) -> httpx.Request:
    """Return the request that an internal redirect leads to."""
    made = request_of(effect.view, exchange.sent, exchange.sent.stream if effect.body else httpx.ByteStream(b""))
    made.extensions = exchange.sent.extensions
    return made


def copied(effect: Mirror, like: httpx.Request, content: bytes | None = None) -> Exchange:
    """Return a copy of a request as a call of its own, which no timeout of the application's bounds.

    Args:
        effect: what to copy.
        like: the request.
        content: its body, where that was streamed.
    """
    stream = like.stream if content is None else httpx.ByteStream(content)
    request = request_of(effect.call.view, like, stream)
    if content is not None and "transfer-encoding" in request.headers:
        del request.headers["transfer-encoding"]
        request.headers["content-length"] = str(len(content))
    return Exchange(effect.call, request, Timeouts(request))


def responded(response: httpx.Response, effect: Attempt, clock: AttemptClock) -> Outcome:
    """Return the outcome of a response head."""
    grpc = response.headers.get("grpc-status")
    return Outcome(
        status=response.status_code,
        headers=response.headers,
        response=response,
        grpc_status=int(grpc) if grpc is not None and grpc.isdigit() else None,
        message=str(effect.endpoint),
        upload=clock.upload,
    )


def edit(response: httpx.Response, change: Edit) -> None:
    """Put the headers that policy makes of them in place of a response's own."""
    headers = [(key.decode("latin-1").lower(), value.decode("latin-1")) for key, value in response.headers.raw]
    edited = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in change(headers)]
    response.headers = httpx.Headers(edited)


def answer(reply: Reply, exchange: Exchange, *, raises: bool) -> httpx.Response:
    """Return a local reply as a response, or raise its error.

    Args:
        reply: the reply.
        exchange: the call it ends.
        raises: ``local_replies="raise"``: mesh failures are exceptions. What the configuration
            itself says (direct response, redirect, fault abort) is a response always.
    """
    record, request = exchange.call.record, exchange.request
    if reply.kind is ReplyKind.APPLICATION:
        cause = reply.cause if isinstance(reply.cause, httpx.TransportError) else None
        raise with_record(cause or httpx.ReadTimeout(reply.message), record, request)
    if raises and reply.kind is not ReplyKind.CONFIGURED:
        raise httpx_errors.from_reply(reply, record, request) from reply.cause
    response = httpx.Response(reply.status, headers=list(reply.headers), content=reply.body.encode())
    response.extensions["meshlib"] = record
    return response
