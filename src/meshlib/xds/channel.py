"""Channel: one management server, from the client's side: connects, asks, answers, connects again.

Everything here runs in the client's thread. What a response means for the configuration is its
owner's business; what it means for the protocol is :mod:`~meshlib.xds.protocol`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base, wait_fixed, wait_random_exponential

from meshlib.clock import Clock
from meshlib.xds import collecting, diagnosis
from meshlib.xds.assembly import Offered
from meshlib.xds.bootstrap_parts import IGNORE_DELETION, Server
from meshlib.xds.delta import DeltaProtocol
from meshlib.xds.discovery import Encoder, read_delta, read_sotw
from meshlib.xds.faults import shortened
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
from meshlib.xds.sotw import SotwProtocol
from meshlib.xds.stream import KEEPALIVE_TIME, AdsStream, StreamData, StreamEnded, StreamEvent, StreamOpened
from meshlib.xds.type_urls import ALL_TYPE_URLS, NAME_TABLE, SECRET, short

_log = logging.getLogger("meshlib.xds")

# Reconnect after 1 s + uniform(0, min(30 s, 2^n s)); a response starts the count anew.
RECONNECT: wait_base = wait_fixed(1) + wait_random_exponential(multiplier=1, max=30)
_FAULTS_SAID = 20  # faults spelt out in one NACK and one log record; the rest is counted
_NOT_SPOKEN = "UNIMPLEMENTED"
# Codes by which a server may say that it does not know a type, of which only Istio knows NDS.
_NOT_KNOWN = frozenset({"UNIMPLEMENTED", "INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN", "INTERNAL", "FAILED_PRECONDITION"})
# And by which istiod says that it gives this node no secrets.
_NOT_GIVEN = _NOT_KNOWN | {"UNAUTHENTICATED", "PERMISSION_DENIED"}
_OPTIONAL_TRIES = 2  # streams in a row that may end so before NDS, or SDS, is given up
_LONGEST_PATIENCE = 30.0  # seconds between NACKs of what comes unchanged again and again
_STOOD_IN = 1.0  # seconds after which it is looked again whether another server stands in
_OWED = 0.05  # seconds of work on other responses that a does-not-exist timer does not count


class Owner(Protocol):
    """What a channel needs of the client around it."""

    node: Any
    """The ``core.v3.Node``."""
    clock: Clock
    """Monotonic seconds."""

    def post(self, event: StreamEvent, /) -> None:
        """Take an event of a stream, from any thread; :meth:`Channel.handle` gets it back."""

    def later(self, seconds: float, action: Callable[[], None], key: Hashable = None, /) -> None:
        """Run ``action`` in the client's thread after ``seconds``, in place of what waits under ``key``."""

    def patience(self, type_url: str, name: str, /) -> float | None:
        """Return the seconds after which an unanswered name does not exist, None for never."""

    def offered(self, channel: Channel, type_url: str, version: str, resources: Collection[bytes], /) -> Offered:
        """Take resources; returns what became of them."""
        ...

    def gone(self, output: Removed | Missing | Unsubscribed, /) -> None:
        """Take that names are not there (any more)."""

    def holds(self, type_url: str, name: str, /) -> bool:
        """Tell whether there is a good version of a resource."""
        ...

    def relied_on(self, channel: Channel, /) -> bool:
        """Tell whether no other server stands in for the channel's."""
        ...

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
        ignores_deletion: whether what the server drops stays in force.
    """

    def __init__(self, server: Server, owner: Owner, reconnect: wait_base, *, sotw: bool = False) -> None:
        self.server = server
        self.connected = False
        self.answered = False
        self.failing = False
        self.counts = Counts()
        self.ignores_deletion = IGNORE_DELETION in server.features
        self._owner = owner
        self._reconnect = reconnect
        delta = server.delta is not False and not sotw
        self._protocol: AdsProtocol = _protocol(Variant.DELTA if delta else Variant.SOTW)
        self._stream: AdsStream | None = None
        self._keepalive = KEEPALIVE_TIME
        self._attempts = 0
        self._closed = False
        self._encode = Encoder()
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

    def known(self, type_url: str) -> Collection[str]:
        """Return the names that the server has told; a view, not to be kept."""
        return self._protocol.known(type_url)

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
            if not self._owner.relied_on(self):
                self._forget(self._protocol.variant)  # another server's values may be in force by now
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
        self._forget(Variant.SOTW)
        self.connect()

    def _forget(self, variant: Variant) -> None:
        """Ask for the same as if for the first time, when the stream is open."""
        before, self._protocol = self._protocol, _protocol(variant)
        for url in ALL_TYPE_URLS:
            self._perform(self._protocol.change(url, added=tuple(before.wanted(url))))

    def _received(self, data: bytes) -> None:
        delta = self._protocol.variant is Variant.DELTA
        try:
            received = read_delta(data) if delta else read_sotw(data)
        except DecodeError:
            self.fail(f"answered something that is no {'Delta' if delta else ''}DiscoveryResponse")
            return
        self._attempts = 0
        self.answered, self.failing = True, False
        url = received.type_url
        if not self._protocol.expects(url):
            _log.warning(
                "server=%s type=%s answered without being asked; ignored", self.server.address, shortened(short(url))
            )
            return
        with collecting.resting(len(data)):
            offered = self._owner.offered(self, url, received.version, received.resources)
        if url == NAME_TABLE:
            self._nds_ended = -1  # it is known here: whatever ends a stream, that was not it
        elif url == SECRET:
            self._sds_ended = -1
        self._count(url, offered)
        said = _said(offered)
        if said and self._refusals.get(url, ([], 0))[0] != said:
            text = "; ".join(said)
            _log.warning(
                "type=%s version=%s refused, last good kept: %s", short(url), shortened(received.version), text
            )
        refused = {fault.resource for fault in offered.faults}
        response = Response(
            url,
            received.version,
            received.nonce,
            offered.names,
            said,
            offered.complete,
            removed=received.removed,
            versions={name: v for name, v in received.versions.items() if name not in refused},
            ttls={name: ttl for name, ttl in received.ttls.items() if name not in refused},
            heartbeats=received.heartbeats,
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
                key = self, output.type_url, output.name
                self._owner.later(output.seconds, partial(self._timed_out, output, self._protocol), key)
            elif isinstance(output, Unsubscribed) or not self._ignores_deletion(output):
                self._owner.gone(output)

    def _ignores_deletion(self, output: Removed | Missing) -> bool:
        """Tell whether what the server does not have (any more) stays in force (gRFC A53)."""
        if not self.ignores_deletion:
            return False
        held = frozenset(name for name in output.names if self._owner.holds(output.type_url, name))
        if held:
            names = shortened(", ".join(sorted(held)))
            _log.warning(
                "server=%s type=%s dropped, and kept by %s: %s",
                self.server.address,
                short(output.type_url),
                IGNORE_DELETION,
                names,
            )
        if rest := output.names - held:
            self._owner.gone(replace(output, names=rest))
        return True

    def _send(self, request: Request | DeltaRequest) -> None:
        if self._stream is not None:
            self._stream.send(self._encode(request, self._owner.node))

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
            self._owner.later(seconds, partial(self._waited, part, self._protocol, self._busy))

    def _waited(self, timer: StartTimer, protocol: AdsProtocol, busy: float) -> None:
        """A name was waited for; what of that time went into other responses is given on top.

        So is the time in which another server stands in: what it knows is not for this one to deny.
        """
        owed = self._busy - busy
        if protocol is self._protocol and protocol.awaits(timer) and not self._owner.relied_on(self):
            owed = max(owed, _STOOD_IN)
        if owed > _OWED:
            self._owner.later(owed, partial(self._waited, timer, protocol, self._busy))
        else:
            self._timed_out(timer, protocol)

    def _timed_out(self, timer: StartTimer | StartTtl, protocol: AdsProtocol) -> None:
        if self._closed or protocol is not self._protocol:
            return
        outputs = protocol.timeout(timer)
        if not self._owner.relied_on(self):
            return
        if isinstance(timer, StartTtl):
            for output in outputs:
                if isinstance(output, Removed | Missing):
                    self._owner.gone(output)  # a TTL is no deletion, and is never ignored
        else:
            self._perform(outputs)
        self._owner.settle()


def _protocol(variant: Variant) -> AdsProtocol:
    return (DeltaProtocol if variant is Variant.DELTA else SotwProtocol)(ALL_TYPE_URLS)


def _attempt(number: int) -> RetryCallState:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = number
    return state


def _said(offered: Offered) -> list[str]:
    said = [str(fault) for fault in offered.faults[:_FAULTS_SAID]]
    rest = len(offered.faults) - len(said)
    return [*said, f"and {rest} more"] if rest else said
