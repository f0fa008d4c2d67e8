"""Channel: one management server, from the client's side: connects, asks, answers, connects again.

Everything here runs in the client's thread. What a response means for the configuration is its
owner's business; what it means for the protocol is :mod:`~meshlib.xds.protocol`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base, wait_fixed, wait_random_exponential

from meshlib.clock import Clock
from meshlib.xds import collecting, diagnosis, wire
from meshlib.xds.assembly import Offered
from meshlib.xds.bootstrap_parts import Server
from meshlib.xds.delta import DeltaProtocol
from meshlib.xds.protocol import (
    AdsProtocol,
    DeltaRequest,
    Missing,
    Output,
    Removed,
    Request,
    Response,
    StartTimer,
    StartTtl,
    Unsubscribed,
    Variant,
)
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.sotw import SotwProtocol
from meshlib.xds.stream import KEEPALIVE_TIME, AdsStream, StreamData, StreamEnded, StreamEvent, StreamOpened
from meshlib.xds.type_urls import ALL_TYPE_URLS, NAME_TABLE, SECRET, short

_log = logging.getLogger("meshlib.xds")

# Reconnect after 1 s + uniform(0, min(30 s, 2^n s)); a response starts the count anew.
RECONNECT: wait_base = wait_fixed(1) + wait_random_exponential(multiplier=1, max=30)
_FAULTS_SAID = 20  # faults spelt out in one NACK and one log record; the rest is counted
_INVALID_ARGUMENT = 3  # google.rpc.Code, as other clients NACK
_NOT_SPOKEN = "UNIMPLEMENTED"
# Codes by which a server may say that it does not know a type, of which only Istio knows NDS.
_NOT_KNOWN = frozenset({"UNIMPLEMENTED", "INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN", "INTERNAL", "FAILED_PRECONDITION"})
# And by which istiod says that it gives this node no secrets.
_NOT_GIVEN = _NOT_KNOWN | {"UNAUTHENTICATED", "PERMISSION_DENIED"}
_OPTIONAL_TRIES = 2  # streams in a row that may end so before NDS, or SDS, is given up
_LONGEST_PATIENCE = 30.0  # seconds between NACKs of what comes unchanged again and again
_OWED = 0.05  # seconds of work on other responses that a does-not-exist timer does not count


class Owner(Protocol):
    """What a channel needs of the client around it."""

    node: Any
    """The ``core.v3.Node``."""
    clock: Clock
    """Monotonic seconds."""

    def post(self, event: StreamEvent, /) -> None:
        """Take an event of a stream, from any thread; :meth:`Channel.handle` gets it back."""

    def later(self, seconds: float, action: Callable[[], None], /) -> None:
        """Run ``action`` in the client's thread after ``seconds``."""

    def patience(self, type_url: str, name: str, /) -> float | None:
        """Return the seconds after which an unanswered name does not exist, None for never."""

    def offered(self, channel: Channel, type_url: str, version: str, resources: Collection[bytes], /) -> Offered:
        """Take resources; returns what became of them."""
        ...

    def gone(self, output: Removed | Missing | Unsubscribed, /) -> None:
        """Take that names are not there (any more)."""

    def settle(self) -> None:
        """Something changed: ask for what is needed now, and publish."""

    def opened(self, channel: Channel, /) -> None:
        """The server is connected."""

    def failed(self, channel: Channel, reason: str, delay: float, /) -> None:
        """The stream is over; another attempt follows in ``delay`` seconds."""


@dataclass(slots=True)
class Counts:
    """What happened to one server's resources and streams, for metrics (gRFC A78).

    Attributes:
        valid, invalid: resources received that were good, or refused, by type URL.
        failures: how often the server went from working to failing: a connection failed, or a
            stream ended before a response.
    """

    valid: dict[str, int] = field(default_factory=dict)
    invalid: dict[str, int] = field(default_factory=dict)
    failures: int = 0


class Channel:
    """One management server. Not thread-safe: the client's thread owns it.

    Args:
        server: whom to ask.
        owner: the client.
        reconnect: how long to wait before the next attempt, by their number since the last response.
        sotw: whether only the state of the world is spoken, whatever the server may speak.

    Attributes:
        connected: whether a stream is open.
        answered: whether this stream brought a response.
        failing: whether the last attempt ended without a response.
        counts: for metrics.
    """

    def __init__(self, server: Server, owner: Owner, reconnect: wait_base, *, sotw: bool = False) -> None:
        self.server = server
        self.connected = False
        self.answered = False
        self.failing = False
        self.counts = Counts()
        self._owner = owner
        self._reconnect = reconnect
        delta = server.delta is not False and not sotw
        self._protocol: AdsProtocol = _protocol(Variant.DELTA if delta else Variant.SOTW)
        self._stream: AdsStream | None = None
        self._keepalive = KEEPALIVE_TIME
        self._attempts = 0
        self._closed = False
        self._encoded: tuple[object, bytes] = ((), b"")
        self._busy = 0.0  # seconds spent on responses: an answer may have waited unread meanwhile
        self._refusals: dict[str, tuple[list[str], int]] = {}  # by type: what was said last, how often in a row
        self._asked: dict[str, int] = {}  # by type: how many requests went out
        self._nds_ended = 0  # streams in a row that ended, perhaps, because NDS was asked for
        self._sds_ended = 0  # likewise; SDS is given up from `_OPTIONAL_TRIES` on

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<Channel to {self.server.address}, {self._protocol.variant.name}, {state}>"

    @property
    def variant(self) -> Variant:
        """What is spoken."""
        return self._protocol.variant

    def version(self, type_url: str) -> str:
        """Return the last version of a type that was accepted whole."""
        return self._protocol.version(type_url)

    def expects(self, stream: object) -> bool:
        """Tell whether an event's stream is this channel's."""
        return stream is self._stream

    def connect(self) -> None:
        """Open a stream, unless there is one."""
        if self._stream is None and not self._closed:
            self._stream = AdsStream(self.server, self._protocol.variant.value, self._owner.post, self._keepalive)
            self._stream.start()

    def close(self) -> None:
        """End the stream for good; idempotent."""
        self._closed = True
        self._drop()

    def change(self, type_url: str, added: Collection[str], gone: Collection[str]) -> None:
        """Ask for names and give up others."""
        if type_url == SECRET and self._sds_ended >= _OPTIONAL_TRIES:
            if added:
                self._owner.gone(Missing(SECRET, frozenset(added)))
            return
        self._perform(self._protocol.change(type_url, added, gone))

    def handle(self, event: StreamEvent) -> None:
        """Take an event of this channel's stream."""
        if isinstance(event, StreamOpened):
            self.connected = True
            _log.info("server=%s connected variant=%s", self.server.address, self._protocol.variant.name)
            self._owner.opened(self)
            self._perform(self._protocol.opened())
            self._owner.settle()
        elif isinstance(event, StreamData):
            began = self._owner.clock()
            self._received(event.data)
            self._busy += self._owner.clock() - began
            event.stream.resume()
        else:
            self._ended(event)

    def fail(self, reason: str) -> None:
        """Give the stream up and connect again later."""
        answered = self.answered
        self._drop()
        self.counts.failures += not answered and not self.failing  # from working to failing (gRFC A78)
        self.failing = not answered
        self._attempts = 1 if answered else self._attempts + 1
        delay: float = self._reconnect(_attempt(self._attempts))
        self._owner.later(delay, self.connect)
        self._owner.failed(self, reason, delay)

    def _drop(self) -> None:
        self._refusals.clear()
        self.connected = self.answered = False
        self._protocol.closed()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _ended(self, event: StreamEnded) -> None:
        if event.too_many_pings:
            self._keepalive *= 2  # as gRFC A8 has it
        if event.code == _NOT_SPOKEN and self._protocol.variant is Variant.DELTA and self.server.delta is None:
            self._speak_state_of_the_world()
            return
        if self._sds_ended >= 0 and self._protocol.expects(SECRET) and self.answered and event.code in _NOT_GIVEN:
            self._count_against_sds()
        elif event.code in _NOT_KNOWN and self._protocol.expects(NAME_TABLE) and self._nds_ended >= 0:
            self._count_against_nds()
        advice = diagnosis.advice(event.code, self.server, self._owner.node)
        self.fail(f"{event.reason}; {advice}" if advice else event.reason)

    def _count_against_nds(self) -> None:
        """Give up the table of names, which is of use but not needed, where asking for it ends the stream."""
        self._nds_ended += 1
        if self._nds_ended == _OPTIONAL_TRIES:
            _log.warning("server=%s seems not to know NDS; it is not asked for any more", self.server.address)
            self._perform(self._protocol.change(NAME_TABLE, gone=tuple(self._protocol.names(NAME_TABLE))))

    def _count_against_sds(self) -> None:
        """Give up secrets where asking for them ends the stream: what needs them refuses, and the mesh lives on."""
        self._sds_ended += 1
        if self._sds_ended == _OPTIONAL_TRIES:
            _log.warning("server=%s gives no secrets (SDS); they are not asked for any more", self.server.address)
            names = frozenset(self._protocol.names(SECRET))
            self._perform(self._protocol.change(SECRET, gone=tuple(names)))
            self._owner.gone(Missing(SECRET, names))

    def _speak_state_of_the_world(self) -> None:
        """The server does not speak delta: ask it for the same in the other variant, at once."""
        _log.info("server=%s does not speak delta xDS; the state of the world is asked for", self.server.address)
        self._drop()
        before, self._protocol = self._protocol, _protocol(Variant.SOTW)
        for url in ALL_TYPE_URLS:
            self._perform(self._protocol.change(url, added=tuple(before.names(url))))
        self.connect()

    def _received(self, data: bytes) -> None:
        delta = self._protocol.variant is Variant.DELTA
        try:
            message = (wire.DeltaDiscoveryResponse if delta else wire.DiscoveryResponse).FromString(data)
            parts = _delta_parts(message) if delta else _sotw_parts(message)
        except DecodeError:
            self.fail(f"answered something that is no {'Delta' if delta else ''}DiscoveryResponse")
            return
        self._attempts = 0
        self.answered, self.failing = True, False
        url = message.type_url
        if not self._protocol.expects(url):
            _log.warning("server=%s type=%s answered without being asked; ignored", self.server.address, short(url))
            return
        with collecting.resting(len(data)):
            offered = self._owner.offered(self, url, parts.version, parts.resources)
        if url == NAME_TABLE:
            self._nds_ended = -1  # it is known here: whatever ends a stream, that was not it
        elif url == SECRET:
            self._sds_ended = -1
        self._count(url, offered)
        said = _said(offered)
        if said and self._refusals.get(url, ([], 0))[0] != said:
            text = "; ".join(said)
            _log.warning("type=%s version=%s refused, last good kept: %s", short(url), parts.version, text)
        refused = {fault.resource for fault in offered.faults}
        response = Response(
            url,
            parts.version,
            message.nonce,
            offered.names,
            said,
            offered.complete,
            removed=parts.removed,
            versions={name: v for name, v in parts.versions.items() if name not in refused},
            ttls={name: ttl for name, ttl in parts.ttls.items() if name not in refused},
            heartbeats=parts.heartbeats,
        )
        self._perform(self._protocol.response(response), self._patience_with(url, said))
        self._owner.settle()

    def _patience_with(self, type_url: str, said: list[str]) -> float:
        """Return the seconds to wait before a NACK goes out.

        A server that sends the same again as soon as it is refused would keep both busy for ever.
        """
        last, times = self._refusals.get(type_url, ([], 0))
        if not said or said != last:
            self._refusals[type_url] = said, 0
            return 0.0
        self._refusals[type_url] = said, times + 1
        return min(_LONGEST_PATIENCE, 0.1 * 2.0**times)

    def _count(self, type_url: str, offered: Offered) -> None:
        bad = len({fault.resource for fault in offered.faults})
        counts = self.counts
        counts.valid[type_url] = counts.valid.get(type_url, 0) + max(0, len(offered.names) - bad)
        if bad:
            counts.invalid[type_url] = counts.invalid.get(type_url, 0) + bad

    def _perform(self, outputs: Iterable[Output], delay: float = 0.0) -> None:
        for output in outputs:
            if isinstance(output, Request | DeltaRequest):
                count = self._asked[output.type_url] = self._asked.get(output.type_url, 0) + 1
                if delay:
                    self._owner.later(delay, partial(self._send_late, output, self._stream, count))
                else:
                    self._send(output)
            elif isinstance(output, StartTimer):
                self._start_timer(output)
            elif isinstance(output, StartTtl):
                self._owner.later(output.seconds, partial(self._timed_out, output))
            else:
                self._owner.gone(output)

    def _send(self, request: Request | DeltaRequest) -> None:
        if self._stream is not None:
            self._stream.send(self._encode(request))

    def _send_late(self, request: Request | DeltaRequest, stream: AdsStream | None, count: int) -> None:
        """Send a request that waited, unless a later one of its type, or another stream, made it stale."""
        if stream is self._stream and self._asked[request.type_url] == count:
            self._send(request)

    def _start_timer(self, timer: StartTimer) -> None:
        """Wait for each name as long as its ConfigSource says (``initial_fetch_timeout``)."""
        by_seconds: dict[float, set[str]] = {}
        for name in timer.names:
            seconds = self._owner.patience(timer.type_url, name)
            if seconds is not None:
                by_seconds.setdefault(seconds, set()).add(name)
        for seconds, names in by_seconds.items():
            part = StartTimer(timer.type_url, frozenset(names), timer.serial)
            self._owner.later(seconds, partial(self._waited, part, self._busy))

    def _waited(self, timer: StartTimer, busy: float) -> None:
        """A name was waited for; what of that time went into other responses is given on top."""
        owed = self._busy - busy
        if owed > _OWED:
            self._owner.later(owed, partial(self._waited, timer, self._busy))
        else:
            self._timed_out(timer)

    def _timed_out(self, timer: StartTimer | StartTtl) -> None:
        if not self._closed:
            self._perform(self._protocol.timeout(timer))
            self._owner.settle()

    def _encode(self, request: Request | DeltaRequest) -> bytes:
        node = self._owner.node if request.with_node else None
        if isinstance(request, DeltaRequest):
            delta = discovery_pb2.DeltaDiscoveryRequest(
                node=node,
                type_url=request.type_url,
                resource_names_subscribe=request.subscribe,
                resource_names_unsubscribe=request.unsubscribe,
                initial_resource_versions=request.initial_versions,
                response_nonce=request.nonce,
            )
            return _with_error(delta, request.error)
        # The names of ten thousand endpoints go out with each ACK and seldom change. Fields of a
        # message may come in any order and in pieces, so that their encoding can be kept.
        if self._encoded[0] is not request.names:
            names = discovery_pb2.DiscoveryRequest(resource_names=request.names)
            self._encoded = (request.names, names.SerializeToString())
        sotw = discovery_pb2.DiscoveryRequest(
            version_info=request.version, node=node, type_url=request.type_url, response_nonce=request.nonce
        )
        return _with_error(sotw, request.error) + self._encoded[1]


def _protocol(variant: Variant) -> AdsProtocol:
    return (DeltaProtocol if variant is Variant.DELTA else SotwProtocol)(ALL_TYPE_URLS)


def _with_error(message: Any, error: str) -> bytes:
    if error:
        message.error_detail.code = _INVALID_ARGUMENT
        message.error_detail.message = error
    encoded: bytes = message.SerializeToString()
    return encoded


def _attempt(number: int) -> RetryCallState:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = number
    return state


def _said(offered: Offered) -> list[str]:
    said = [str(fault) for fault in offered.faults[:_FAULTS_SAID]]
    rest = len(offered.faults) - len(said)
    return [*said, f"and {rest} more"] if rest else said


@dataclass(slots=True)
class _Parts:
    """A response of either variant, its resources still bytes.

    Attributes:
        resources: each a serialised ``Any``.
    """

    version: str
    resources: Collection[bytes]
    removed: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    ttls: dict[str, float] = field(default_factory=dict)
    heartbeats: list[str] = field(default_factory=list)


_WRAPPED = b"envoy.service.discovery.v3.Resource"
_HEADS = {url: wire.any_head(url) for url in ALL_TYPE_URLS}


def _sotw_parts(message: Any) -> _Parts:
    resources = message.resources[:]
    parts = _Parts(message.version_info, resources)
    head = _HEADS.get(message.type_url, b"")
    unusual = [raw for raw in resources if not raw.startswith(head)]
    if any(raw.find(_WRAPPED, 0, 80) >= 0 for raw in unusual):  # only TTLs need the wrapper
        parts.resources = list(_unwrapped(resources, parts))
    return parts


def _unwrapped(resources: Iterable[bytes], parts: _Parts) -> Iterator[bytes]:
    """Take resources out of their ``discovery.v3.Resource``: TTLs and heartbeats aside."""
    for raw in resources:
        packed = any_pb2.Any.FromString(raw)
        if packed.type_url.endswith("/envoy.service.discovery.v3.Resource"):
            yield from _resource(wire.Resource.FromString(packed.value), parts)
        else:
            yield raw


def _delta_parts(message: Any) -> _Parts:
    parts = _Parts(message.system_version_info, (), tuple(message.removed_resources))
    found: list[bytes] = []
    for data in message.resources[:]:
        found += _resource(wire.Resource.FromString(data), parts)
    parts.resources = found
    return parts


def _resource(resource: Any, parts: _Parts) -> tuple[bytes, ...]:
    """Return the ``Any`` in a ``discovery.v3.Resource``, nothing for a heartbeat."""
    name = resource.name
    parts.versions[name] = resource.version
    if resource.ttl:
        ttl = duration_pb2.Duration.FromString(resource.ttl)
        parts.ttls[name] = ttl.seconds + ttl.nanos / 1e9
    if not resource.resource:
        parts.heartbeats.append(name)
        return ()
    return (resource.resource,)
