"""The server's side of one ADS stream, state of the world: requests in, responses out.

No I/O: :mod:`meshlib.controlplane.server` moves the messages. The rules are those of the xDS
protocol, and where it leaves room, istiod's:

- A type's first request on a stream, or one with an empty nonce, is answered. One with a nonce
  that is not the type's latest is stale and ignored.
- Listeners, Clusters and the name table are answered whole: absence there is deletion. RouteConfigurations and
  ClusterLoadAssignments are answered by name, to a sidecar or gateway only those that are new
  or changed. A gRPC node always gets the whole set it asked for.
- A name that does not exist is left out of LDS and CDS. In EDS and RDS it is answered empty, so
  that a client neither waits for it nor keeps what was there before.
- An update pushes the types whose content changed, in the order CDS, EDS, LDS, RDS, NDS.
- Requests are answered from what the client was last brought to, so that no answer runs ahead
  of the push that is on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from meshlib.controlplane.resources import TYPE_URLS
from meshlib.controlplane.session import WILDCARD_TYPES, Session, Watch, empty
from meshlib.controlplane.snapshot import Form


class AdsSession(Session):
    """One client's stream in the state-of-the-world form."""

    def on_request(self, request: Any) -> list[bytes]:
        """Take a DiscoveryRequest; return the DiscoveryResponses that answer it, mostly none or one."""
        url = request.type_url
        if url not in TYPE_URLS:
            self.warn_unserved(url)
            return []
        names = frozenset(request.resource_names)
        watch = self.watches.get(url)
        if watch is None or not request.response_nonce:
            everything = url in WILDCARD_TYPES and (not names or not self.proxyless)
            self.watches[url] = Watch(names, everything)
            return self._answer(url)
        if request.response_nonce != watch.nonce:
            return []
        self.note_verdict(url, watch, request)
        return self._change_names(url, watch, names)

    def push(self, url: str, watch: Watch, affected: frozenset[str]) -> bytes:
        """Return the response that tells of the ``affected`` names of a type."""
        whole = url in WILDCARD_TYPES or self.proxyless
        return self._respond(url, watch, None if whole else affected)

    def _change_names(self, url: str, watch: Watch, names: frozenset[str]) -> list[bytes]:
        added, removed = names - watch.names, watch.names - names
        if not added and not removed:
            return []
        watch.names = names
        if url in WILDCARD_TYPES:
            # Once names were given, no names is no subscription, and never a wildcard (xDS
            # protocol, "How the client specifies what resources to return"). Envoys see all anyway.
            watch.everything = not self.proxyless
            return self._answer(url)
        return self._answer(url, None if self.proxyless else added) if added else []

    def _answer(self, url: str, only: Iterable[str] | None = None) -> list[bytes]:
        watch = self.watches[url]
        return [self._respond(url, watch, only)] if watch.everything or watch.names else []

    def _respond(self, url: str, watch: Watch, only: Iterable[str] | None) -> bytes:
        """Return a response with ``only`` those names, or with all that the client watches."""
        self.note_sent(watch)
        header = discovery_pb2.DiscoveryResponse(version_info=watch.version, type_url=url, nonce=watch.nonce)
        if watch.everything and only is None:
            body = self.snapshot.whole(url, Form.SOTW)
        else:
            body = b"".join(self._pieces(url, watch.names if only is None else only))
        head: bytes = header.SerializeToString()
        return head + body

    def _pieces(self, url: str, names: Iterable[str]) -> Iterator[bytes]:
        known = self.snapshot[url]
        for name in sorted(names):
            if name in known:
                yield known[name].piece(Form.SOTW)
            elif url not in WILDCARD_TYPES:
                yield empty(url, name).piece(Form.SOTW)
