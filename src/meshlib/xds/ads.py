"""AdsProtocol: the state-of-the-world variant of xDS, as a machine without bytes, clock or I/O.

Two rules: everything the protocol says about versions, nonces, ACK and NACK happens in this
file; and this file knows neither protobuf, nor decoders, nor how time passes. Inputs are method
calls, outputs are returned in order; whoever drives it sends the requests and keeps the timers.

How it works. Each resource type has a subscription of its own, which is always in one of the
phases below; ``_NEXT`` holds every transition there is, and an input that is missing for a
phase is the caller's error.

- *ACK*: a response that is good throughout is answered with its version and nonce.
- *NACK*: a response with faults is answered with its nonce, the last good version and every
  fault. Good resources beside faulty ones are used all the same (gRFC A46).
- On a *new stream* nonces are gone; the node and all names go out again, versions are kept.
- In *LDS and CDS* absence from a response is deletion of what was there before. A name that was
  asked for and has never come is not deleted by absence, since the response may have crossed
  the request on the wire: its timer decides (gRFC A53, A57). In RDS and EDS absence means nothing.
- *Does not exist*: a name asked for on a connected stream and unanswered when its timer ends is
  missing. The timers of a stream end with it.
- A subscription to names in LDS or CDS never goes out empty: an empty list is a wildcard there,
  and istiod takes it for one even after names. The last names stay subscribed instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from meshlib.xds.type_urls import FULL_STATE, TYPE_URLS, WILDCARD


class Phase(Enum):
    """Where the subscription of one type is."""

    OFFLINE = "no stream"
    IDLE = "nothing asked on this stream"
    ASKED = "asked, not answered"
    ACKED = "the last response was good"
    NACKED = "the last response had faults"


class Input(Enum):
    """What can happen to it."""

    OPEN = "the stream is open"
    ASK = "a request went out"
    ACCEPT = "a good response"
    REJECT = "a response with faults"
    CLOSE = "the stream ended"


_NEXT: dict[tuple[Phase, Input], Phase] = {
    (Phase.OFFLINE, Input.OPEN): Phase.IDLE,
    (Phase.IDLE, Input.ASK): Phase.ASKED,
    (Phase.IDLE, Input.CLOSE): Phase.OFFLINE,
    (Phase.ASKED, Input.ASK): Phase.ASKED,
    (Phase.ASKED, Input.ACCEPT): Phase.ACKED,
    (Phase.ASKED, Input.REJECT): Phase.NACKED,
    (Phase.ASKED, Input.CLOSE): Phase.OFFLINE,
    # A change of names does not take back what was said of the last response.
    (Phase.ACKED, Input.ASK): Phase.ACKED,
    (Phase.ACKED, Input.ACCEPT): Phase.ACKED,
    (Phase.ACKED, Input.REJECT): Phase.NACKED,
    (Phase.ACKED, Input.CLOSE): Phase.OFFLINE,
    (Phase.NACKED, Input.ASK): Phase.NACKED,
    (Phase.NACKED, Input.ACCEPT): Phase.ACKED,
    (Phase.NACKED, Input.REJECT): Phase.NACKED,
    (Phase.NACKED, Input.CLOSE): Phase.OFFLINE,
}


@dataclass(frozen=True, slots=True)
class Request:
    """Output: send a DiscoveryRequest.

    Attributes:
        type_url: its type.
        names: ``resource_names``, sorted; empty is a wildcard, or nothing more in RDS and EDS.
        version: ``version_info``: the last version accepted whole.
        nonce: ``response_nonce`` of the last response on this stream.
        error: ``error_detail``: why the response is refused; empty for an ACK.
        with_node: whether the node goes with it, as on the first request of a stream.
    """

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: str = ""
    with_node: bool = False


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Output: give back to :meth:`AdsProtocol.timeout` after the does-not-exist time."""

    type_url: str
    names: frozenset[str]
    serial: int


@dataclass(frozen=True, slots=True)
class Removed:
    """Output: these resources were there and are not any more."""

    type_url: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Missing:
    """Output: these names were asked for and the server does not know them."""

    type_url: str
    names: frozenset[str]


Output = Request | StartTimer | Removed | Missing


@dataclass(slots=True)
class _Subscription:
    """One type. ``version`` and ``known`` outlive a stream, the rest is the stream's."""

    names: frozenset[str] = frozenset()
    phase: Phase = Phase.OFFLINE
    version: str = ""
    nonce: str = ""
    known: set[str] = field(default_factory=set)  # names the server has sent
    awaited: dict[str, int] = field(default_factory=dict)  # name -> serial of its timer

    def step(self, given: Input) -> None:
        self.phase = _NEXT[self.phase, given]


class AdsProtocol:
    """The client's side of ADS. Not thread-safe: one thread owns it.

    Args:
        type_urls: the types there may be subscriptions to, in the order in which they are
            asked for on a new stream.
    """

    def __init__(self, type_urls: Iterable[str] = TYPE_URLS) -> None:
        self._types = {url: _Subscription() for url in type_urls}
        self._connected = False
        self._node_sent = False
        self._serial = 0

    @property
    def connected(self) -> bool:
        """Whether a stream is open."""
        return self._connected

    def phase(self, type_url: str) -> Phase:
        """Return where the subscription of a type is."""
        return self._types[type_url].phase

    def version(self, type_url: str) -> str:
        """Return the last version of a type that was accepted whole."""
        return self._types[type_url].version

    def expects(self, type_url: str) -> bool:
        """Tell whether a response of a type answers anything that was asked on this stream."""
        sub = self._types.get(type_url)
        return sub is not None and sub.phase not in (Phase.OFFLINE, Phase.IDLE)

    def opened(self) -> list[Output]:
        """A new stream is connected: ask for everything again."""
        self._connected = True
        self._node_sent = False
        out: list[Output] = []
        for url, sub in self._types.items():
            sub.step(Input.OPEN)
            sub.nonce = ""
            if sub.names:
                out += self._ask(url, sub, sub.names - sub.known)
        return out

    def closed(self) -> list[Output]:
        """The stream ended; what is known stays known, and no timer runs."""
        self._connected = False
        for sub in self._types.values():
            if sub.phase is not Phase.OFFLINE:
                sub.step(Input.CLOSE)
            sub.awaited.clear()
        return []

    def want(self, type_url: str, names: Collection[str]) -> list[Output]:
        """Subscribe to exactly ``names``; ``{"*"}`` is a wildcard. Asks only when that is a change."""
        sub = self._types[type_url]
        wanted = frozenset(names)
        if wanted == sub.names or (not wanted and type_url in FULL_STATE):
            return []
        added, gone = wanted - sub.names, sub.names - wanted
        sub.names = wanted
        if type_url not in FULL_STATE:
            sub.known -= gone  # asked for again later, they are awaited again
        for name in gone:
            sub.awaited.pop(name, None)
        return self._ask(type_url, sub, added - sub.known) if self._connected else []

    def response(
        self,
        type_url: str,
        version: str,
        nonce: str,
        names: Collection[str],
        faults: Collection[str] = (),
        *,
        complete: bool = True,
    ) -> list[Output]:
        """A response arrived and its resources were decoded.

        Args:
            type_url: its type; one that was not asked for on this stream is ignored.
            version: its ``version_info``.
            nonce: its nonce.
            names: every resource in it whose name could be read, faulty or not.
            faults: every fault in it, in words; names in it keep their last good value.
            complete: whether every name could be read; if not, nothing counts as absent.
        """
        if not self.expects(type_url):
            return []
        sub = self._types[type_url]
        sub.nonce = nonce
        sub.step(Input.REJECT if faults else Input.ACCEPT)
        if not faults:
            sub.version = version
        out: list[Output] = [self._request(type_url, sub, "; ".join(faults))]
        present = set(names)
        for name in (*present, WILDCARD):
            sub.awaited.pop(name, None)
        gone = frozenset(sub.known - present) if type_url in FULL_STATE and complete else frozenset()
        # What comes unasked, or after it was given up, is not known: asked for again, it is awaited.
        sub.known |= present if WILDCARD in sub.names else present & sub.names
        sub.known -= gone
        if gone:
            out.append(Removed(type_url, gone))
        return out

    def timeout(self, timer: StartTimer) -> list[Output]:
        """The does-not-exist time of ``timer`` has passed."""
        sub = self._types[timer.type_url]
        missing = frozenset(name for name in timer.names if sub.awaited.get(name) == timer.serial)
        for name in missing:
            del sub.awaited[name]
        return [Missing(timer.type_url, missing)] if missing else []

    def _ask(self, type_url: str, sub: _Subscription, awaited: frozenset[str]) -> list[Output]:
        if sub.phase is Phase.IDLE and not sub.names:
            return []
        sub.step(Input.ASK)
        out: list[Output] = [self._request(type_url, sub)]
        if awaited:
            self._serial += 1
            sub.awaited.update(dict.fromkeys(awaited, self._serial))
            out.append(StartTimer(type_url, awaited, self._serial))
        return out

    def _request(self, type_url: str, sub: _Subscription, error: str = "") -> Request:
        with_node, self._node_sent = not self._node_sent, True
        names = tuple(sorted(sub.names - {WILDCARD}))
        return Request(type_url, names, sub.version, sub.nonce, error, with_node)
