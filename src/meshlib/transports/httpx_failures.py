"""Failures in httpx's words and in policy's, both ways."""

from __future__ import annotations

import ssl
import sys

import httpcore
import httpx

from meshlib.policy.effects import Attempt, ErrorKind, Outcome
from meshlib.transports.httpx_exchange import Timeouts
from meshlib.upstream.clock import AttemptClock
from meshlib.upstream.failure import AttemptFailed

TIMED_OUT: dict[str, type[httpx.TransportError]] = {
    "connect": httpx.ConnectTimeout,
    "write": httpx.WriteTimeout,
    "read": httpx.ReadTimeout,
    "pool": httpx.PoolTimeout,
}
BROKE: dict[str, type[httpx.TransportError]] = {
    "connect": httpx.ConnectError,
    "write": httpx.WriteError,
    "read": httpx.ReadError,
    "end": httpx.RemoteProtocolError,  # as h11 sees it: a message is cut short
}


def to_httpx(failure: AttemptFailed) -> httpx.TransportError:
    """Return the error that httpx would have raised."""
    if failure.timed_out:
        error: httpx.TransportError = TIMED_OUT[failure.phase](failure.message)
    elif failure.kind is ErrorKind.PROTOCOL:
        error = httpx.RemoteProtocolError(failure.message)
    else:
        error = BROKE[failure.phase](failure.message)
    error.__cause__ = failure.__cause__
    return error


def from_httpx(error: httpx.TransportError, clock: AttemptClock) -> AttemptFailed:
    """Return what an error of httpx's own (HTTP/2, a mock) says."""
    message = str(error) or type(error).__name__
    for phase, kind in TIMED_OUT.items():
        if isinstance(error, kind):
            return AttemptFailed(ErrorKind.TIMEOUT, message, phase=phase, timed_out=True)
    if isinstance(error, httpx.ConnectError):
        tls = _caused_by(error, ssl.SSLError)
        return AttemptFailed(ErrorKind.TLS_FAILED if tls else ErrorKind.CONNECT, message, phase="connect")
    left = _left_by(error)
    if left is not None:
        return AttemptFailed(left, message, phase="read")
    if isinstance(error, httpx.RemoteProtocolError):
        return AttemptFailed(ErrorKind.RESET if clock.ended else ErrorKind.PROTOCOL, message, phase="read")
    if isinstance(error, httpx.NetworkError):
        return AttemptFailed(ErrorKind.RESET, message, phase="read")
    # LocalProtocolError, UnsupportedProtocol, ProxyError: not the endpoint's fault
    return AttemptFailed(ErrorKind.APPLICATION, message, phase="write")


def broken(error: httpx.TransportError) -> ErrorKind:
    """Return why a body broke off."""
    if isinstance(error, httpx.TimeoutException):
        return ErrorKind.APPLICATION
    return _left_by(error) or ErrorKind.RESET


def _left_by(error: httpx.TransportError) -> ErrorKind | None:
    """Return how an HTTP/2 endpoint left a stream (RST_STREAM, GOAWAY); None where it did not."""
    events = sys.modules.get("h2.events")  # there with the first HTTP/2 connection
    cause = error.__cause__
    if events is None or not isinstance(cause, httpcore.RemoteProtocolError) or not cause.args:
        return None
    event = cause.args[0]
    if isinstance(event, events.ConnectionTerminated):
        return ErrorKind.REFUSED
    if not isinstance(event, events.StreamReset):
        return None
    return ErrorKind.REFUSED if event.error_code == 7 else ErrorKind.REMOTE_RESET  # 7: REFUSED_STREAM


def outcome(
    failure: AttemptFailed, error: httpx.TransportError, effect: Attempt, clock: AttemptClock, timeouts: Timeouts
) -> Outcome:
    """Return the outcome of an attempt that brought no response head."""
    kind = _whose_timeout(failure, effect, clock, timeouts) if failure.timed_out else failure.kind
    return Outcome(error=kind, message=failure.message, exception=error, written=clock.sent, upload=clock.upload)


def cut(clock: AttemptClock) -> Outcome:
    """Return the outcome of an attempt that a cancel scope ended at its deadline."""
    kind = ErrorKind.TIMEOUT if clock.mesh_expired else ErrorKind.APPLICATION
    return Outcome(error=kind, message="no response head in time", written=clock.sent, upload=clock.upload)


def _whose_timeout(failure: AttemptFailed, effect: Attempt, clock: AttemptClock, timeouts: Timeouts) -> ErrorKind:
    if clock.mesh_expired:
        return ErrorKind.TIMEOUT
    if failure.phase == "connect" and not clock.application_expired:
        own = timeouts.left_to_connect()
        given_up = own is not None and own <= effect.cluster.connect_timeout
        return ErrorKind.APPLICATION if given_up else ErrorKind.CONNECT_TIMEOUT
    return ErrorKind.APPLICATION


def _caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kind):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
