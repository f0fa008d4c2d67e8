"""Subscription: where a resource type is in the conversation with a server, as a literal table.

``NEXT`` holds every transition there is; an input that is missing for a phase is the caller's
error. Only :mod:`meshlib.xds.protocol` and its variants change a subscription.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from meshlib.xds.type_urls import WILDCARD


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


NEXT: Mapping[tuple[Phase, Input], Phase] = {
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


@dataclass(slots=True)
class Subscription:
    """What there is to remember of one type.

    ``nonce``, ``awaited`` and ``explicit`` are the stream's, the rest outlives it.

    Attributes:
        names: what is subscribed to, ``*`` included.
        phase: where it is.
        version: the last version accepted whole.
        nonce: the last nonce on this stream.
        known: what the server has sent: name -> the version accepted, empty when none was.
        whole: whether the wildcard was answered, and nothing that came by it was lost since.
        awaited: name -> serial of its does-not-exist timer.
        ttls: name -> serial of its TTL.
        explicit: whether a name, ``*`` counting as one, was sent on this stream.
    """

    names: set[str] = field(default_factory=set)
    phase: Phase = Phase.OFFLINE
    version: str = ""
    nonce: str = ""
    known: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    awaited: dict[str, int] = field(default_factory=dict)
    ttls: dict[str, int] = field(default_factory=dict)
    explicit: bool = False

    def step(self, given: Input) -> None:
        """Go where ``NEXT`` says."""
        self.phase = NEXT[self.phase, given]

    @property
    def asked(self) -> bool:
        """Whether it was asked for on this stream."""
        return self.phase is not Phase.OFFLINE and self.phase is not Phase.IDLE

    def unknown(self, names: Iterable[str]) -> frozenset[str]:
        """Return those that have to be waited for."""
        return frozenset(n for n in names if n not in self.known and not (self.whole and n == WILDCARD))
