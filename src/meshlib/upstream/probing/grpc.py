"""gRPC checks: ``grpc.health.v1.Health/Check``, the protocol of gRPC's own health checking."""

from __future__ import annotations

from meshlib.model.health_check import GrpcCheck
from meshlib.policy.health import Failure, Result
from meshlib.upstream.probing.connecting import Dialled
from meshlib.upstream.probing.http import changed

_PATH = "/grpc.health.v1.Health/Check"
_SERVING = 1
_STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_STATUS_FIELD = 0x08  # HealthCheckResponse.status = 1, a varint
_SERVICE_FIELD = 0x0A  # HealthCheckRequest.service = 1, a string


class GrpcProbe:
    """Asks for a service's health."""

    def __init__(self, dialled: Dialled, check: GrpcCheck, authority: str, *, keep: bool) -> None:
        from meshlib.upstream.probing.http2 import Http2  # h2 is slow to import, and few checks need it

        self._http2 = Http2(dialled, keep=keep)
        self._headers = _headers(check, authority)
        self._message = _framed(_request(check.service))

    async def check(self) -> Result:
        """See :class:`~meshlib.runtime.keeper.Probe`."""
        received = await self._http2.ask(self._headers, self._message)
        http = received.header(":status")
        if http != "200":
            return Result(Failure.ANSWERED, f"HTTP status {http}")
        told = dict([*received.headers, *received.trailers])
        status = told.get("grpc-status")
        if status != "0":
            return Result(Failure.ANSWERED, f"gRPC status {status or 'missing'}: {told.get('grpc-message', '')}")
        serving = _status(received.body[5:])
        if serving != _SERVING:
            return Result(Failure.ANSWERED, _STATUSES.get(serving, str(serving)))
        return Result(degraded="x-envoy-degraded" in told)

    def close(self) -> None:
        """See :class:`~meshlib.runtime.keeper.Probe`."""
        self._http2.close()


def _headers(check: GrpcCheck, authority: str) -> list[tuple[str, str]]:
    fixed = [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "Envoy/HC")]
    own = changed(fixed, check.headers)
    return [(":method", "POST"), (":scheme", "http"), (":authority", authority), (":path", _PATH), *own]


def _request(service: str) -> bytes:
    """Return a ``HealthCheckRequest``; here and below two fields are no reason to import protobuf."""
    name = service.encode()
    return bytes([_SERVICE_FIELD]) + _varint(len(name)) + name if name else b""


def _varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _status(message: bytes) -> int:
    """Return the status of a ``HealthCheckResponse``: its only field."""
    return message[1] if len(message) >= 2 and message[0] == _STATUS_FIELD else 0
