"""SotwProtocol: the state-of-the-world variant of ADS, where each request holds all names.

What it adds to :mod:`meshlib.xds.protocol`:

- An *ACK* repeats all names and says the version; a *NACK* says the last version that was good.
- On a *new stream* the version goes along ("the most recent version seen"), but only when all that
  is subscribed to is held: a server may leave out what it takes for known, and it knows by the
  version alone. Who lacks anything asks as if for the first time. Of a wildcard that was added to
  names on this stream it cannot be told: what comes may answer the names alone.
- *Absence* from a response of a full-state type (LDS, CDS) is deletion of what was there before. A
  name that was asked for and has never come is not deleted by absence, since the response may have
  crossed the request on the wire: its timer decides (gRFC A53, A57). In the others (RDS, EDS)
  responses may be partial, and absence means nothing.
- The *wildcard* alone goes out as an empty list, which is what Envoy sends and every server knows,
  for as long as no name was sent on this stream; after that, and beside names, as ``*`` ("How the
  client specifies what resources to return").
- *Nothing* cannot be said of a full-state type, nor after an empty list: istiod takes an empty
  list of listeners or clusters for a wildcard even after names, and everybody else does while no
  name was sent. The last names then stay subscribed, and known, until others are asked for or the
  stream ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import ClassVar

from meshlib.xds.protocol import AdsProtocol, Output, Request, Response, StartTtl, Variant
from meshlib.xds.subscription import Subscription
from meshlib.xds.type_urls import FULL_STATE, TYPE_URLS, WILDCARD


class SotwProtocol(AdsProtocol):
    """State of the world: ``StreamAggregatedResources``; see :class:`AdsProtocol`."""

    variant: ClassVar[Variant] = Variant.SOTW

    def __init__(self, type_urls: Iterable[str] = TYPE_URLS, full_state: Collection[str] = FULL_STATE) -> None:
        super().__init__(type_urls, full_state)
        self._sorted: dict[str, tuple[str, ...]] = dict.fromkeys(self._types, ())
        # Types of which nothing is wanted any more, and whose last names are subscribed to still.
        self._lingering: set[str] = set()
        # Types of whose wildcard this stream cannot tell whether it is held whole.
        self._partial: set[str] = set()

    def wanted(self, type_url: str) -> Collection[str]:
        """Return what is asked for; see :meth:`AdsProtocol.wanted`."""
        return () if type_url in self._lingering else super().wanted(type_url)

    def opened(self) -> list[Output]:
        """A new stream is connected: ask for everything again."""
        lingering, self._lingering = self._lingering, set()
        out = [output for url in lingering for output in self.change(url, gone=tuple(self.names(url)))]
        self._partial.clear()
        return out + super().opened()

    def change(self, type_url: str, added: Collection[str] = (), gone: Collection[str] = ()) -> list[Output]:
        """Ask for names and give up others; see :meth:`AdsProtocol.change`."""
        sub = self._types[type_url]
        if type_url in self._lingering:
            if not added:
                return []
            self._lingering.remove(type_url)
            gone = tuple(sub.names)
        elif not added and self._would_be_empty(type_url, sub, gone):
            self._lingering.add(type_url)
            return []
        if sub.asked and WILDCARD in added and WILDCARD not in sub.names:
            self._partial.add(type_url)
        return super().change(type_url, added, gone)

    def response(self, response: Response) -> list[Output]:
        """A response arrived; see :meth:`AdsProtocol.response`."""
        out = super().response(response)
        if response.type_url in self._partial:
            self._types[response.type_url].whole = False
        return out

    def _would_be_empty(self, type_url: str, sub: Subscription, gone: Collection[str]) -> bool:
        """Tell whether a list would go out empty that then is taken for a wildcard."""
        if not sub.asked or (sub.explicit and type_url not in self._full_state):
            return False
        return 0 < len(sub.names) <= len(gone) and sub.names.issubset(gone)

    def _begin(self, type_url: str, sub: Subscription) -> list[Output]:
        if sub.unknown(sub.names):
            sub.version = ""
        return super()._begin(type_url, sub)

    def _first(self, type_url: str, sub: Subscription) -> Output:
        self._sorted[type_url] = tuple(sorted(sub.names))
        return self._request(type_url, sub)

    def _update(self, type_url: str, sub: Subscription, new: frozenset[str], old: frozenset[str]) -> Output:
        before = self._sorted[type_url]
        names = [name for name in before if name not in old] if old else list(before)
        names += sorted(new)
        names.sort()  # two sorted runs: a merge
        self._sorted[type_url] = tuple(names)
        return self._request(type_url, sub)

    def _answer(self, type_url: str, sub: Subscription, error: str) -> Output:
        return self._request(type_url, sub, error)

    def _request(self, type_url: str, sub: Subscription, error: str = "") -> Request:
        names = self._sorted[type_url]
        if names == (WILDCARD,) and not sub.explicit:
            names = ()
        elif names:
            sub.explicit = True
        return Request(type_url, names, sub.version, sub.nonce, error, self._with_node())

    def _deleted(self, sub: Subscription, response: Response) -> Iterable[str]:
        if response.type_url not in self._full_state or not response.complete:
            return ()
        present = frozenset(response.names).union(response.heartbeats)
        return [name for name in sub.known if name not in present]

    def _expire(self, timer: StartTtl, sub: Subscription) -> list[Output]:
        sub.whole = False  # the version would say that it is held
        if timer.type_url not in self._full_state:
            self._partial.add(timer.type_url)
        return super()._expire(timer, sub)
