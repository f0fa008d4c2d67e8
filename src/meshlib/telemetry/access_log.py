"""Envoy's access log: a format string, compiled once to closures, one line a call.

Operators are Envoy's (configuration/observability/access_log/usage), as far as an in-process
mesh knows their values; what it cannot know (the downstream's addresses: the application *is* the
downstream) is ``-``, as in Envoy. An operator that is not known at all is an error, never ``-``.

Two deliberate differences: the path is written without its query, and the credential headers
cannot be named, so that neither reaches a log.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from meshlib.errors import ConfigError
from meshlib.policy import flags
from meshlib.policy.events import NullObserver
from meshlib.policy.record import CallRecord
from meshlib.telemetry.context import context_of

ISTIO_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% '
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
    '"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% '
    '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" '
    '"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%"
)
"""Istio's default text format (meshConfig.accessLogFormat), without its newline."""

NONE = "-"
SERVICE_TIME = "x-envoy-upstream-service-time"
SECRETS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"})

# What the operator prints: of a finished call, and the wall-clock second at which it ended.
Field = Callable[[CallRecord, float], str]


class AccessLog(NullObserver):
    """Writes one line when a call ends.

    The line goes to the logger ``meshlib.access`` at INFO (as the message, with the call's
    record in ``LogRecord.call``), or to ``stream``. Thread-safe as far as logging and the
    stream are; a line is one ``write``.

    Args:
        format: an Envoy format string, default Istio's.
        stream: where to write instead of the logger.
        now: wall-clock seconds, for ``%START_TIME%``.

    Raises:
        ConfigError: the format cannot be compiled; names the operator and its position.
    """

    def __init__(
        self,
        format: str = ISTIO_FORMAT,
        *,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._line = compile_format(format.rstrip("\n"))
        self._stream = stream
        self._now = now
        self._logger = logging.getLogger("meshlib.access")

    def call_ended(self, record: CallRecord) -> None:
        """Write the call's line."""
        if self._stream is not None:
            self._stream.write(self._line(record, self._now()) + "\n")
        elif self._logger.isEnabledFor(logging.INFO):
            self._logger.info("%s", self._line(record, self._now()), extra={"call": record})


_OPERATOR = re.compile(r"%(?:%|(?P<name>[A-Z_0-9]+)(?:\((?P<argument>[^()]*)\))?(?::(?P<length>\d+))?%)")


def compile_format(text: str) -> Field:
    """Compile an Envoy format string to a function of a finished call and its wall-clock end.

    Raises:
        ConfigError: an operator is not known, or a ``%`` begins none; says where.
    """
    parts: list[Field] = []
    position = 0
    while position < len(text):
        start = text.find("%", position)
        if start != position:
            literal = text[position : start if start >= 0 else len(text)]
            parts.append(_constant(literal))
            position += len(literal)
            continue
        found = _OPERATOR.match(text, start)
        if found is None:
            raise ConfigError(
                f"access log format, character {start + 1}: '%' begins no operator (%NAME%, %NAME(ARGUMENT)%, "
                "%NAME(ARGUMENT):LENGTH%); write a percent sign as '%%'"
            )
        parts.append(_constant("%") if found["name"] is None else _field(found, start + 1))
        position = found.end()
    return lambda record, ended_at: "".join([part(record, ended_at) for part in parts])


def _field(found: re.Match[str], position: int) -> Field:
    """Return the closure of one operator."""
    name, argument = found["name"], found["argument"]
    where = f"access log format, character {position}: %{name}%"
    if name in _HEADER_OPERATORS:
        if not argument:
            raise ConfigError(f"{where} needs a header name, as in %{name}(X-REQUEST-ID)%")
        field = _HEADER_OPERATORS[name](argument, where)
    elif name not in _FIELDS:
        known = ", ".join(sorted([*_FIELDS, *_HEADER_OPERATORS]))
        raise ConfigError(f"{where} is not an operator meshlib knows; it knows {known}")
    elif argument is not None:
        raise ConfigError(f"{where} takes no argument here, but has ({argument})")
    else:
        field = _FIELDS[name]
    if found["length"] is None:
        return field
    length = int(found["length"])
    return lambda record, ended_at: field(record, ended_at)[:length]


def _constant(text: str) -> Field:
    return lambda _record, _ended_at: text


def _request_header(argument: str, where: str) -> Field:
    """``%REQ(NAME?ALTERNATIVE)%``: the first of the two that the request has."""
    names = [name.strip().lower() for name in argument.split("?", 1)]
    for name in names:
        if name in SECRETS:
            raise ConfigError(f"{where}: the header {name!r} carries credentials and is never logged")

    def read(record: CallRecord, _ended_at: float) -> str:
        for name in names:
            value = _request_value(record, name)
            if value:
                return value if value.isprintable() and '"' not in value else _escaped(value)
        return NONE

    return read


def _request_value(record: CallRecord, name: str) -> str:
    if name == "x-request-id":
        return context_of(record).request_id or record.request.header(name) or ""
    values = record.request.values(name)
    if name in (":path", "x-envoy-original-path"):
        return values[0].partition("?")[0] if values else ""
    return ",".join(values)


def _response_header(argument: str, where: str) -> Field:
    """``%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%``: a call's record keeps no other response header."""
    if argument.strip().lower() != SERVICE_TIME:
        raise ConfigError(f"{where}: of the response's headers only {SERVICE_TIME!r} is known here, not {argument!r}")

    def service_time(record: CallRecord, _ended_at: float) -> str:
        if not record.attempts or record.attempts[-1].status is None:
            return NONE
        last = record.attempts[-1]
        return str(int((last.ended - last.started) * 1000))

    return service_time


def _escaped(value: str) -> str:
    """Keep a header's value from forging a line: quotes and what does not print become escapes."""
    return value.encode("unicode_escape").decode("ascii").replace('"', '\\"')


def _start_time(record: CallRecord, ended_at: float) -> str:
    start = datetime.fromtimestamp(ended_at - record.duration, UTC)
    return f"{start:%Y-%m-%dT%H:%M:%S}.{start.microsecond // 1000:03d}Z"


def _response_duration(record: CallRecord) -> str:
    """``%RESPONSE_DURATION%``: milliseconds from the start to the response head."""
    if not record.attempts or record.attempts[-1].status is None:
        return NONE
    return str(int((record.attempts[-1].ended - record.started) * 1000))


def _failure_reason(record: CallRecord) -> str:
    if not record.flags & flags.UPSTREAM_CONNECTION_FAILURE or not record.attempts:
        return NONE
    return _escaped(record.attempts[-1].error) or NONE


def _grpc_status(record: CallRecord) -> str:
    return NONE if record.protocol != "grpc" or record.grpc_status is None else str(record.grpc_status)


def _of(read: Callable[[CallRecord], str]) -> Field:
    return lambda record, _ended_at: read(record) or NONE


_FIELDS: dict[str, Field] = {
    "START_TIME": _start_time,
    "PROTOCOL": _of(lambda record: "HTTP/2" if record.protocol == "grpc" else "HTTP/1.1"),
    "RESPONSE_CODE": _of(lambda record: str(record.status or 0)),
    "RESPONSE_FLAGS": _of(lambda record: record.response_flags),
    "RESPONSE_CODE_DETAILS": _of(lambda record: record.detail.replace(" ", "_")),
    "CONNECTION_TERMINATION_DETAILS": _constant(NONE),
    "UPSTREAM_TRANSPORT_FAILURE_REASON": _of(_failure_reason),
    "BYTES_RECEIVED": _of(lambda record: str(record.bytes_sent)),  # Envoy counts from its downstream's side
    "BYTES_SENT": _of(lambda record: str(record.bytes_received)),
    "DURATION": _of(lambda record: str(int(record.duration * 1000))),
    "RESPONSE_DURATION": _of(_response_duration),
    "UPSTREAM_HOST": _of(lambda record: str(record.endpoint or "")),
    "UPSTREAM_CLUSTER": _of(lambda record: record.cluster_name),
    "UPSTREAM_LOCAL_ADDRESS": _constant(NONE),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": _of(lambda record: str(len(record.attempts))),
    "DOWNSTREAM_LOCAL_ADDRESS": _constant(NONE),
    "DOWNSTREAM_REMOTE_ADDRESS": _constant(NONE),
    "REQUESTED_SERVER_NAME": _constant(NONE),
    "ROUTE_NAME": _of(lambda record: record.route),
    "GRPC_STATUS_NUMBER": _of(_grpc_status),
    "TRACE_ID": _of(lambda record: context_of(record).trace_id),
}

_HEADER_OPERATORS: dict[str, Callable[[str, str], Field]] = {"REQ": _request_header, "RESP": _response_header}
