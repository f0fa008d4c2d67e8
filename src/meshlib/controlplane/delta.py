"""The server's side of one ADS stream, delta: requests in, responses out, and no I/O.

The rules of the incremental protocol, and where it leaves room, istiod's:

- The first request of a type is answered, and so is every subscription; a name subscribed to
  again is sent again. A request with a nonce and no names is an ACK, or with an error a NACK.
- A first request for Listeners, Clusters or the name table without names, or the name ``*``, is a wildcard.
- Each resource has a version, a hash of its content. What a client says on reconnecting that it has
  already (``initial_resource_versions``) is not sent again.
- A name that does not exist, or no more, is in ``removed_resources``; but for a sidecar's or gateway's route table,
  which is sent empty: Envoy ignores the removal of one, and waits for one that it never had.
- An update sends what changed, in the order CDS, EDS, LDS, RDS, NDS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from meshlib.controlplane.resources import ROUTE, TYPE_URLS
from meshlib.controlplane.session import WILDCARD_TYPES, Session, Watch, empty
from meshlib.controlplane.snapshot import Form

_WILDCARD = "*"


class DeltaSession(Session):
    """One client's stream in the delta form."""

    def on_request(self, request: Any) -> list[bytes]:
        """Take a DeltaDiscoveryRequest; return the DeltaDiscoveryResponses that answer it, none or one."""
        url = request.type_url
        if url not in TYPE_URLS:
            self.warn_unserved(url)
            return []
        watch = self.watches.get(url)
        if watch is not None and request.response_nonce and request.response_nonce == watch.nonce:
            self.note_verdict(url, watch, request)
        subscribed = frozenset(request.resource_names_subscribe)
        if watch is None:
            return [self._first(url, subscribed, request.initial_resource_versions)]
        dropped = frozenset(request.resource_names_unsubscribe)
        begins_wildcard = _WILDCARD in subscribed and not watch.everything
        watch.everything = (watch.everything and _WILDCARD not in dropped) or begins_wildcard
        watch.names = (watch.names - dropped) | (subscribed - {_WILDCARD})
        if begins_wildcard:
            return [self._respond(url, watch, None)]
        return [self._respond(url, watch, named)] if (named := subscribed - {_WILDCARD}) else []

    def push(self, url: str, watch: Watch, affected: frozenset[str]) -> bytes:
        """Return the response that tells of the ``affected`` names of a type."""
        return self._respond(url, watch, affected)

    def _first(self, url: str, subscribed: frozenset[str], has: Mapping[str, str]) -> bytes:
        everything = _WILDCARD in subscribed or (url in WILDCARD_TYPES and not subscribed)
        watch = self.watches[url] = Watch(subscribed - {_WILDCARD}, everything)
        if not has:
            return self._respond(url, watch, None)
        known = self.snapshot[url]
        wanted = (known.keys() if everything else frozenset()) | watch.names | watch.of(has)
        news = {name for name in wanted if name not in known or known[name].version != has.get(name)}
        return self._respond(url, watch, news)

    def _respond(self, url: str, watch: Watch, only: Iterable[str] | None) -> bytes:
        """Return a response with ``only`` those names, or with all that the client watches."""
        self.note_sent(watch)
        header = discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=watch.version, type_url=url, nonce=watch.nonce
        )
        known = self.snapshot[url]
        body = []
        if only is None and watch.everything:
            body.append(self.snapshot.whole(url, Form.DELTA))
            only = watch.names - known.keys()
        for name in sorted(watch.names if only is None else only):
            if name in known:
                body.append(known[name].piece(Form.DELTA))
            elif url == ROUTE and not self.proxyless:
                body.append(empty(url, name).piece(Form.DELTA))
            else:
                header.removed_resources.append(name)
        head: bytes = header.SerializeToString()
        return head + b"".join(body)
