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
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE, TYPE_URLS, Resources

logger = logging.getLogger("meshlib.controlplane")

_WILDCARD_TYPES = frozenset({LISTENER, CLUSTER, NAME_TABLE})
_SHORT = {LISTENER: "LDS", CLUSTER: "CDS", ROUTE: "RDS", ENDPOINT: "EDS", NAME_TABLE: "NDS"}


@dataclass(slots=True)
class Watch:
    """What one client asked of one type, what it was sent, and what it said to that.

    Attributes:
        names: the names asked for; of no meaning when ``everything`` is set.
        everything: the subscription is a wildcard.
        sent: name -> serialised resource, as last sent.
        version: ``version_info`` last sent; empty before.
        nonce: of the last response; empty before.
        sent_at: wall-clock seconds of the last response.
        acked_version: the last version the client took.
        acked_nonce: its nonce.
        error: why the client refused the last response; empty when it did not.
    """

    names: frozenset[str] = frozenset()
    everything: bool = False
    sent: dict[str, bytes] = field(default_factory=dict)
    version: str = ""
    nonce: str = ""
    sent_at: float = 0.0
    acked_version: str = ""
    acked_nonce: str = ""
    error: str = ""


class AdsSession:
    """One client's stream: its node, its watches, and the responses it is owed.

    Not thread-safe: one thread, or one event loop, drives it.

    Args:
        node: who asks.
        clock: wall-clock seconds, for ``Watch.sent_at``.
    """

    def __init__(self, node: Node, *, clock: Callable[[], float] = time.time) -> None:
        self.node = node
        self.watches: dict[str, Watch] = {}
        self._clock = clock
        self._whole = node.kind is NodeKind.GRPC
        self._unserved: set[str] = set()

    def on_request(self, request: Any, resources: Resources, version: str) -> list[Any]:
        """Take a DiscoveryRequest; return the DiscoveryResponses that answer it, mostly none or one."""
        url = request.type_url
        if url not in TYPE_URLS:
            self._warn_unserved(url)
            return []
        names = frozenset(request.resource_names)
        watch = self.watches.get(url)
        if watch is None or not request.response_nonce:
            everything = url in _WILDCARD_TYPES and (not names or not self._whole)
            self.watches[url] = Watch(names, everything)
            return self._answer(url, resources, version)
        if request.response_nonce != watch.nonce:
            return []
        self._note_verdict(url, watch, request)
        return self._change_names(url, watch, names, resources, version)

    def on_update(self, resources: Resources, version: str) -> list[Any]:
        """Return the responses that bring the client to ``resources``; none for types left as they were."""
        responses: list[Any] = []
        warming: frozenset[str] = frozenset()
        for url in TYPE_URLS:
            watch = self.watches.get(url)
            if watch is None:
                continue
            wanted = self._select(url, watch, resources)
            changed = {name for name, data in wanted.items() if watch.sent.get(name) != data}
            if url not in _WILDCARD_TYPES:
                changed |= warming & wanted.keys()
            if changed or (url in _WILDCARD_TYPES and watch.sent.keys() - wanted.keys()):
                partial = url not in _WILDCARD_TYPES and not self._whole
                sending = {name: wanted[name] for name in wanted if name in changed} if partial else wanted
                responses.append(self._respond(url, watch, sending, version))
            if url in _WILDCARD_TYPES:
                warming = self._dependents(url, changed, resources)
        return responses

    def _dependents(self, url: str, changed: Collection[str], resources: Resources) -> frozenset[str]:
        """Return the names of the next type to send again although they may not have changed.

        Envoy warms a changed cluster (listener) until its endpoints (routes) arrive *after* it,
        and asks for them with the names and nonce it already had, which is no news to a server.
        """
        if not changed or self._whole or url == NAME_TABLE:
            return frozenset()
        if url == LISTENER:
            return self.watches[ROUTE].names if ROUTE in self.watches else frozenset()
        clusters = (resources.clusters[name] for name in changed)
        return frozenset(_eds_name(cluster) for cluster in clusters)

    def _change_names(
        self, url: str, watch: Watch, names: frozenset[str], resources: Resources, version: str
    ) -> list[Any]:
        added, removed = names - watch.names, watch.names - names
        if not added and not removed:
            return []
        watch.names = names
        if url in _WILDCARD_TYPES:
            # Once names were given, no names is no subscription, and never a wildcard (xDS
            # protocol, "How the client specifies what resources to return"). Envoys see all anyway.
            watch.everything = not self._whole
            return self._answer(url, resources, version)
        for name in removed:
            watch.sent.pop(name, None)
        return self._answer(url, resources, version, only=None if self._whole else added) if added else []

    def _note_verdict(self, url: str, watch: Watch, request: Any) -> None:
        if not request.HasField("error_detail"):
            watch.acked_nonce, watch.acked_version, watch.error = watch.nonce, watch.version, ""
            return
        reason = request.error_detail.message or "no reason given"
        if watch.error != reason:
            logger.warning(
                "%s refused %s version %s and keeps what it had: %s", self.name, _SHORT[url], watch.version, reason
            )
        watch.error = reason

    def _answer(
        self, url: str, resources: Resources, version: str, *, only: Collection[str] | None = None
    ) -> list[Any]:
        watch = self.watches[url]
        if not watch.everything and not watch.names:
            watch.sent.clear()
            return []
        wanted = self._select(url, watch, resources)
        if only is not None:
            wanted = {name: data for name, data in wanted.items() if name in only}
        return [self._respond(url, watch, wanted, version)]

    def _respond(self, url: str, watch: Watch, sending: Mapping[str, bytes], version: str) -> Any:
        if url in _WILDCARD_TYPES or self._whole:
            watch.sent = dict(sending)
        else:
            watch.sent.update(sending)
        watch.version = version
        watch.nonce = f"{version}{uuid.uuid4()}"
        watch.sent_at = self._clock()
        watch.error = ""
        return discovery_pb2.DiscoveryResponse(
            version_info=version,
            type_url=url,
            nonce=watch.nonce,
            resources=[any_pb2.Any(type_url=url, value=data) for data in sending.values()],
        )

    def _select(self, url: str, watch: Watch, resources: Resources) -> dict[str, bytes]:
        known = resources.by_type[url]
        if watch.everything:
            chosen = dict(known)
        else:
            chosen = {name: known[name] for name in sorted(watch.names) if name in known}
            if url not in _WILDCARD_TYPES:
                chosen |= {name: _empty(url, name) for name in sorted(watch.names - known.keys())}
        return {name: message.SerializeToString(deterministic=True) for name, message in chosen.items()}

    def _warn_unserved(self, url: str) -> None:
        if url not in self._unserved:
            self._unserved.add(url)
            logger.warning("%s asks for %s, which is not served here; it gets no answer", self.name, url)

    @property
    def name(self) -> str:
        """The client as people know it: ``webapp-x.istioinaction``."""
        return f"{self.node.workload}.{self.node.namespace}"


def _eds_name(cluster: Any) -> str:
    return cluster.eds_cluster_config.service_name or cluster.name if cluster.type == cluster_pb2.Cluster.EDS else ""


def _empty(url: str, name: str) -> Any:
    if url == ENDPOINT:
        return endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    return route_pb2.RouteConfiguration(name=name)
