"""Envoy's substitution formatters (``%REQ(x-user)%``), as header values and rewritten paths use them.

A template compiles to one closure over :class:`Facts`. A command whose value is not known gives
nothing, so that a header of which nothing is left is not sent (Envoy's ``omit_empty_values``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Facts(Protocol):
    """What commands may read of a call."""

    def request_header(self, name: str) -> str | None:
        """Return the first value of a request header or pseudo-header (lower case) as it stands now."""

    def response_header(self, name: str) -> str | None:
        """Return the first value of a response header (lower case), None before there is one."""

    def metadata(self, of: str) -> Metadata | None:
        """Return metadata of ``CLUSTER``, ``ROUTE``, ``VIRTUAL_HOST`` or ``UPSTREAM_HOST``, or ``DYNAMIC``."""

    def fact(self, command: str) -> str | None:
        """Return the value of a command without arguments, None where it is not known."""


Metadata = Mapping[str, Mapping[str, object]]
Value = Callable[[Facts], str | None]

# Commands without arguments whose value a client in the process knows.
KNOWN = frozenset(
    {
        "ACCESS_LOG_TYPE",
        "BYTES_RECEIVED",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        "HOSTNAME",
        "LISTENER_NAME",
        "LOCAL_REPLY_BODY",
        "PROTOCOL",
        "QUERY_PARAMS",
        "RESPONSE_CODE",
        "RESPONSE_CODE_DETAILS",
        "RESPONSE_FLAGS",
        "RESPONSE_FLAGS_LONG",
        "ROUTE_NAME",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_CLUSTER_RAW",
        "UPSTREAM_HOST",
        "UPSTREAM_HOST_NAME",
        "UPSTREAM_PROTOCOL",
        "UPSTREAM_REMOTE_ADDRESS",
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_REMOTE_PORT",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    }
)

# Commands that Envoy 1.40 takes and that have no value in a client: about sockets, certificates, filters
# and times of a proxy.
_FOREIGN = frozenset(
    """
    BYTES_RETRANSMITTED BYTES_SENT COMMON_DURATION CONNECTION_ID
    CONNECTION_TERMINATION_DETAILS CUSTOM_FLAGS DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED
    DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT DOWNSTREAM_DETECTED_CLOSE_TYPE DOWNSTREAM_DIRECT_LOCAL_ADDRESS
    DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT
    DOWNSTREAM_DIRECT_LOCAL_PORT DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_PORT
    DOWNSTREAM_HANDSHAKE_DURATION DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT
    DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT
    DOWNSTREAM_LOCAL_CLOSE_REASON DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_IP_SAN
    DOWNSTREAM_LOCAL_OTHERNAME_SAN DOWNSTREAM_LOCAL_PORT DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_LOCAL_URI_SAN
    DOWNSTREAM_PEER_CERT DOWNSTREAM_PEER_CERT_V_END DOWNSTREAM_PEER_CERT_V_START
    DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 DOWNSTREAM_PEER_CHAIN_SERIALS
    DOWNSTREAM_PEER_DNS_SAN DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_PEER_FINGERPRINT_1 DOWNSTREAM_PEER_FINGERPRINT_256
    DOWNSTREAM_PEER_IP_SAN DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_OTHERNAME_SAN DOWNSTREAM_PEER_SERIAL
    DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_PORT
    DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_GROUP DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_VERSION
    DOWNSTREAM_TRANSPORT_FAILURE_REASON DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT DURATION
    EMIT_TIME EMIT_TIME_LOCAL FILTER_CHAIN_NAME FILTER_STATE GRPC_STATUS GRPC_STATUS_NUMBER
    PACKETS_RETRANSMITTED PER_REQUEST_STATE
    REQUESTED_SERVER_NAME REQUEST_DURATION REQUEST_HEADERS_BYTES REQUEST_TX_DURATION RESPONSE_DURATION
    RESPONSE_HEADERS_BYTES RESPONSE_TRAILER RESPONSE_TRAILERS_BYTES
    RESPONSE_TX_DURATION ROUNDTRIP_DURATION
    SPAN_ID START_TIME START_TIME_LOCAL STREAM_ID TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT TRACE_ID TRAILER UNIQUE_ID
    UPSTREAM_CONNECTION_ID UPSTREAM_CONNECTION_IDS_ATTEMPTED UPSTREAM_CONNECTION_POOL_READY_DURATION
    UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT UPSTREAM_DETECTED_CLOSE_TYPE
    UPSTREAM_FILTER_STATE UPSTREAM_HEADER_BYTES_RECEIVED UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HOSTS_ATTEMPTED
    UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT UPSTREAM_HOST_NAMES_ATTEMPTED UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT
    UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT
    UPSTREAM_LOCAL_CLOSE_REASON UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN UPSTREAM_LOCAL_PORT
    UPSTREAM_LOCAL_URI_SAN UPSTREAM_PEER_CERT UPSTREAM_PEER_CERT_V_END UPSTREAM_PEER_CERT_V_START
    UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN UPSTREAM_PEER_ISSUER UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN
    UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID UPSTREAM_SERVER_NAME UPSTREAM_TLS_CIPHER
    UPSTREAM_TLS_GROUP UPSTREAM_TLS_SESSION_ID UPSTREAM_TLS_VERSION UPSTREAM_TRANSPORT_FAILURE_REASON
    UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_WIRE_BYTES_SENT VIRTUAL_CLUSTER_NAME
    """.split()  # noqa: SIM905  a list of a hundred strings would be two pages
)

_COMMAND = re.compile(r"%([A-Z0-9_]+)(?:\((.*?)\))?(?::([0-9]+))?%")


@dataclass(frozen=True, slots=True)
class Template:
    """A text with commands in it.

    Attributes:
        text: as configured.
        missing: stands for a command without a value.
        foreign: commands that Envoy knows and that have no value in a client.
        format: the compiled text.
        alone: the value of the one command that the text is, None for any other text.

    Raises:
        ValueError: on what Envoy refuses: an unknown command, a lone ``%``, a missing argument.
    """

    text: str
    missing: str = ""
    foreign: tuple[str, ...] = field(init=False, compare=False, repr=False)
    format: Callable[[Facts], str] = field(init=False, compare=False, repr=False)
    alone: Value | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        parts, foreign = _parse(self.text)
        lone = [part for part in parts if part]
        object.__setattr__(self, "alone", lone[0] if len(lone) == 1 and callable(lone[0]) else None)
        object.__setattr__(self, "foreign", foreign)
        object.__setattr__(self, "format", _compiled(parts, self.missing))

    def __str__(self) -> str:
        return self.text


def _compiled(parts: list[str | Value], missing: str) -> Callable[[Facts], str]:
    if all(isinstance(part, str) for part in parts):
        text = "".join(part for part in parts if isinstance(part, str))
        return lambda _facts: text

    def text_of(part: str | Value, facts: Facts) -> str:
        value = part if isinstance(part, str) else part(facts)
        return missing if value is None else value

    return lambda facts: "".join(text_of(part, facts) for part in parts)


def _parse(text: str) -> tuple[list[str | Value], tuple[str, ...]]:
    parts: list[str | Value] = []
    foreign: list[str] = []
    position = 0
    while (start := text.find("%", position)) >= 0:
        parts.append(text[position:start])
        if text.startswith("%%", start):
            parts.append("%")
            position = start + 2
            continue
        found = _COMMAND.match(text, start)
        if found is None:
            raise ValueError(f"{text!r} has no valid command at position {start}; a percent sign is written %%")
        command, argument, length = found.groups()
        if command in _FOREIGN:
            foreign.append(command)
        else:
            parts.append(_limited(_command(command, argument or "", length), length))
        position = found.end()
    parts.append(text[position:])
    return parts, tuple(foreign)


def _command(command: str, argument: str, length: str | None) -> Value:
    maker = _MAKERS.get(command)
    if maker is not None:
        if not argument:
            raise ValueError(f"%{command}% needs an argument in parentheses")
        return maker(argument)
    if command == "PATH":
        return _path(argument)
    if command not in KNOWN:
        raise ValueError(f"%{command}% is not a command that Envoy knows")
    if argument or length is not None:
        raise ValueError(f"%{command}% takes no argument and no length")
    return lambda facts: facts.fact(command)


def _limited(value: Value, length: str | None) -> Value:
    if length is None:
        return value
    end = int(length)

    def limited(facts: Facts) -> str | None:
        text = value(facts)
        return None if text is None else text[:end]

    return limited


def _alternatives(argument: str) -> tuple[str, str]:
    """Return the names of ``name?alternative``, lower case."""
    name, _, alternative = argument.lower().partition("?")
    if "?" in alternative:
        raise ValueError(f"{argument!r} is not a header name, or two with '?' between them")
    return name, alternative


def _request(argument: str) -> Value:
    name, alternative = _alternatives(argument)

    def value(facts: Facts) -> str | None:
        first = facts.request_header(name)
        return facts.request_header(alternative) if first is None and alternative else first

    return value


def _response(argument: str) -> Value:
    name, alternative = _alternatives(argument)

    def value(facts: Facts) -> str | None:
        first = facts.response_header(name)
        return facts.response_header(alternative) if first is None and alternative else first

    return value


def _environment(argument: str) -> Value:
    text = os.environ.get(argument) or "-"  # Envoy reads it once, too
    return lambda _facts: text


def _query_parameter(argument: str) -> Value:
    def value(facts: Facts) -> str | None:
        for pair in (facts.request_header(":path") or "").partition("?")[2].split("&"):
            key, _, text = pair.partition("=")
            if key == argument:
                return text
        return None

    return value


def _path(argument: str) -> Value:
    """``%PATH(X:Y)%``: WQ or NQ, with or without query; ORIG or PATH, as received or as it stands."""
    query, _, which = argument.partition(":")
    if query not in ("", "WQ", "NQ") or which not in ("", "ORIG", "PATH", "ORIG_OR_PATH"):
        raise ValueError(f"%PATH({argument})% takes WQ or NQ, then ORIG, PATH or ORIG_OR_PATH")

    def value(facts: Facts) -> str | None:
        path = None if which == "PATH" else facts.request_header("x-envoy-original-path")
        if path is None and which != "ORIG":
            path = facts.request_header(":path")
        return path.partition("?")[0] if path is not None and query == "NQ" else path

    return value


def _metadata(of: str) -> Callable[[str], Value]:
    """``%CLUSTER_METADATA(namespace:key:key)%``: the value there, as JSON where it is no text."""

    def make(argument: str) -> Value:
        namespace, *keys = argument.split(":")

        def value(facts: Facts) -> str | None:
            found: object = (facts.metadata(of) or {}).get(namespace)
            for key in keys:
                found = found.get(key) if isinstance(found, Mapping) else None
            if found is None or isinstance(found, str):
                return found
            whole = int(found) if isinstance(found, float) and found.is_integer() else found
            return json.dumps(whole, sort_keys=True, separators=(",", ":"))

        return value

    return make


def _typed_metadata(argument: str) -> Value:
    """``%METADATA(TYPE:namespace:key)%``; a call from the process has no listener's."""
    of, _, rest = argument.partition(":")
    if of not in ("CLUSTER", "DYNAMIC", "LISTENER", "LISTENER_FILTER_CHAIN", "ROUTE", "UPSTREAM_HOST", "VIRTUAL_HOST"):
        raise ValueError(f"%METADATA({argument})% names no kind of metadata that Envoy knows")
    return _metadata(of)(rest)


_MAKERS: Mapping[str, Callable[[str], Value]] = {
    "REQ": _request,
    "REQUEST_HEADER": _request,
    "RESP": _response,
    "RESPONSE_HEADER": _response,
    "ENVIRONMENT": _environment,
    "QUERY_PARAM": _query_parameter,
    "CLUSTER_METADATA": _metadata("CLUSTER"),
    "UPSTREAM_METADATA": _metadata("UPSTREAM_HOST"),
    "DYNAMIC_METADATA": _metadata("DYNAMIC"),
    "METADATA": _typed_metadata,
}
