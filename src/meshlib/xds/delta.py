"""DeltaProtocol: the incremental variant of ADS, where requests and responses hold what changed.

What it adds to :mod:`meshlib.xds.protocol`:

- An *ACK* or *NACK* holds the nonce and no names; a request that changes the names holds no nonce
  (it "must be omitted"). istiod passes over the names in a request with a stale nonce or an error,
  and so the two are never one request.
- On a *new stream* the first request of a type subscribes to all names, and
  ``initial_resource_versions`` says what is known and in which version was accepted. Names without
  a version go in as well, with an empty one, for to a server that has versions it is an old one,
  and from the names it tells what was removed meanwhile. Such are all of istiod's, which leaves
  ``Resource.version`` empty, and what was refused whenever it came.
- *Deletion* is by ``removed_resources`` alone, for all types. Of a name that never came it says that
  it does not exist; the timer stays, for servers that say nothing of such names.
- The *wildcard* alone is asked for by a first request without names: that is what Envoy sends, so
  every management server knows it, also those older than ``*`` (go-control-plane before 0.10.2).
  Beside names, or later on the stream, it is ``*``. Who never named anything cannot give up an
  unnamed wildcard (go-control-plane), so that ``*`` is subscribed to and unsubscribed from at
  once, as istiod advises.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from meshlib.xds.protocol import AdsProtocol, DeltaRequest, Output, Response, Variant
from meshlib.xds.subscription import Subscription
from meshlib.xds.type_urls import WILDCARD


class DeltaProtocol(AdsProtocol):
    """Incremental: ``DeltaAggregatedResources``; see :class:`AdsProtocol`."""

    variant: ClassVar[Variant] = Variant.DELTA

    def _first(self, type_url: str, sub: Subscription) -> Output:
        sub.explicit = sub.names != {WILDCARD}
        subscribe = tuple(sorted(sub.names)) if sub.explicit else ()
        return DeltaRequest(type_url, subscribe, initial_versions=dict(sub.known), with_node=self._with_node())

    def _update(self, type_url: str, sub: Subscription, new: frozenset[str], old: frozenset[str]) -> Output:
        if WILDCARD in old and not sub.explicit:
            new |= {WILDCARD}
        sub.explicit = sub.explicit or bool(new)
        return DeltaRequest(type_url, tuple(sorted(new)), tuple(sorted(old)), with_node=self._with_node())

    def _answer(self, type_url: str, sub: Subscription, error: str) -> Output:
        return DeltaRequest(type_url, nonce=sub.nonce, error=error, with_node=self._with_node())

    def _deleted(self, sub: Subscription, response: Response) -> Iterable[str]:
        if not response.removed:
            return ()
        present = frozenset(response.names)
        return [n for n in response.removed if n not in present and (n in sub.known or n in sub.names)]
