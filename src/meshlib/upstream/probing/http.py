"""HTTP checks: what is asked, and what the answer says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from meshlib.model.headers import HeaderMutations
from meshlib.model.health_check import HttpCheck
from meshlib.model.request import RequestView
from meshlib.policy.headers import CallFacts
from meshlib.policy.health import Failure, Result
from meshlib.policy.record import CallRecord
from meshlib.upstream.http11.framing import FramingError, Phase, ResponseReader, encode_head
from meshlib.upstream.probing.connecting import Connection, Dialled
from meshlib.upstream.probing.payload import contains

Headers = list[tuple[str, str]]
_AGENT = "Envoy/HC"  # what servers know a health check by


class Answer(NamedTuple):
    """A response to a check.

    Attributes:
        status: its status.
        headers: lower-case names.
        body: as much of it as is looked at.
    """

    status: int
    headers: Headers
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


def request_headers(check: HttpCheck) -> Headers:
    """Return the headers of a check, but Host and what framing needs."""
    return changed([("user-agent", _AGENT)], check.headers)


def changed(headers: Headers, mutations: HeaderMutations) -> Headers:
    """Return headers after mutations, whose commands find nothing: as in Envoy, a check is no request of a caller."""
    if mutations:
        view = RequestView(method="", scheme="", host="", port=0, authority="", target="", headers=[])
        mutations.apply(headers, CallFacts(CallRecord(view, 0.0)))
    return headers


def judge(check: HttpCheck, answer: Answer) -> Result:
    """Return what an answer says of its endpoint, as Envoy's ``healthCheckResult``."""
    if not _among(answer.status, check.expected):
        return Result(Failure.ANSWERED, f"status {answer.status}", retriable=_among(answer.status, check.retriable))
    if check.receive and not contains(answer.body, check.receive):
        return Result(Failure.ANSWERED, "its body lacks what is expected")
    if check.service_name is not None:
        said = answer.header("x-envoy-upstream-healthchecked-cluster") or ""
        if not check.service_name.compile()(said):
            return Result(Failure.ANSWERED, f"it serves {said or 'no cluster that it names'!r}")
    return Result(degraded=answer.header("x-envoy-degraded") is not None)


def _among(status: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(start <= status < end for start, end in ranges)


class HttpProbe:
    """Sends a request and judges the response."""

    def __init__(self, dialled: Dialled, check: HttpCheck, host: str, *, keep: bool) -> None:
        self._check = check
        self._host = host
        self._wire = _Http2(dialled, keep) if check.http2 else _Http1(dialled, keep)

    async def check(self) -> Result:
        """See :class:`~meshlib.runtime.keeper.Probe`."""
        return judge(self._check, await self._wire.ask(self._check, self._host))

    def close(self) -> None:
        """See :class:`~meshlib.runtime.keeper.Probe`."""
        self._wire.close()


class _Http1:
    """Requests over one HTTP/1.1 connection, kept while both sides want it."""

    def __init__(self, dialled: Dialled, keep: bool) -> None:
        self._dialled = dialled
        self._keep = keep
        self._connection: Connection | None = None

    async def ask(self, check: HttpCheck, host: str) -> Answer:
        connection = self._connection
        if connection is None or connection.ended:
            self.close()
            connection = self._connection = await self._dialled.connect()
        reader = ResponseReader(check.method.encode())
        await connection.send(_head(check, host, keep=self._keep) + check.send)
        body = b""
        try:
            while not reader.complete:
                data = await connection.receive()
                if data:
                    reader.feed(data)
                else:
                    reader.feed_eof()
                part = reader.take()
                body += part if not check.buffer else part[: check.buffer - len(body)]
                if reader.phase is Phase.UPGRADED:
                    break
        except FramingError as error:
            raise OSError(f"invalid response: {error}") from None
        if not self._keep or not reader.keep_alive or connection.ended:
            self.close()
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in reader.headers]
        return Answer(reader.status, headers, body)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _head(check: HttpCheck, host: str, *, keep: bool) -> bytes:
    headers = [("host", host), *request_headers(check)]
    if check.send:
        headers.append(("content-length", str(len(check.send))))
    if not keep:
        headers.append(("connection", "close"))
    encoded = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    return encode_head(check.method.encode(), check.path.encode("latin-1", "replace"), encoded)


class _Http2:
    """Requests over one HTTP/2 connection."""

    def __init__(self, dialled: Dialled, keep: bool) -> None:
        from meshlib.upstream.probing.http2 import Http2  # h2 is slow to import, and few checks need it

        self._http2 = Http2(dialled, keep=keep)

    async def ask(self, check: HttpCheck, host: str) -> Answer:
        pseudo = [(":method", check.method), (":scheme", "http"), (":authority", host), (":path", check.path)]
        received = await self._http2.ask([*pseudo, *request_headers(check)], check.send)
        body = received.body[: check.buffer] if check.buffer else received.body
        return Answer(int(received.header(":status") or 0), received.headers, body)

    def close(self) -> None:
        self._http2.close()
