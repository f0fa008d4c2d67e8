"""What both forms of the protocol keep of a client: its node, its watches, what it said."""

from __future__ import annotations

import abc
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2

from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE, TYPE_URLS
from meshlib.controlplane.snapshot import EMPTY, Change, Encoded, Snapshot

logger = logging.getLogger("meshlib.controlplane")

WILDCARD_TYPES = frozenset({LISTENER, CLUSTER, NAME_TABLE})
_SHORT = {LISTENER: "LDS", CLUSTER: "CDS", ROUTE: "RDS", ENDPOINT: "EDS", NAME_TABLE: "NDS"}


@dataclass(slots=True)
class Watch:
    """What one client asked of one type, and what it said to what it was sent.

    What it was sent need not be kept: it is what its session's snapshot has of the names.

    Attributes:
        names: the names asked for; beside ``everything`` they add nothing.
        everything: the subscription is a wildcard.
        version: of the last response; empty before.
        nonce: of the last response; empty before.
        sent_at: wall-clock seconds of the last response.
        acked_version: the last version the client took.
        acked_nonce: its nonce.
        error: why the client refused the last response; empty when it did not.
    """

    names: frozenset[str] = frozenset()
    everything: bool = False
    version: str = ""
    nonce: str = ""
    sent_at: float = 0.0
    acked_version: str = ""
    acked_nonce: str = ""
    error: str = ""

    def of(self, names: Iterable[str]) -> frozenset[str]:
        """Return those of ``names`` that are watched; the cost is that of ``names``."""
        return frozenset(names) if self.everything else frozenset(name for name in names if name in self.names)


class Session(abc.ABC):
    """One client's stream; the two forms of the protocol are its subclasses.

    Not thread-safe: one thread, or one event loop, drives it.

    Args:
        node: who asks.
        snapshot: what it is served, until :meth:`on_update`.
        clock: wall-clock seconds, for ``Watch.sent_at``.
    """

    def __init__(self, node: Node, snapshot: Snapshot = EMPTY, *, clock: Callable[[], float] = time.time) -> None:
        self.node = node
        self.snapshot = snapshot
        self.watches: dict[str, Watch] = {}
        self.proxyless = node.kind is NodeKind.GRPC
        self._clock = clock
        self._unserved: set[str] = set()

    @abc.abstractmethod
    def on_request(self, request: Any) -> list[bytes]:
        """Take a request; return the serialised responses that answer it, mostly none or one."""

    @abc.abstractmethod
    def push(self, url: str, watch: Watch, affected: frozenset[str]) -> bytes:
        """Return the serialised response that tells of the ``affected`` names of a type."""

    def on_update(self, snapshot: Snapshot) -> Iterator[bytes]:
        """Return the serialised responses that bring the client to ``snapshot``; none for types left as they were.

        The session is at ``snapshot`` at once; the responses are made one by one as they are asked for.
        """
        changes = snapshot.since(self.snapshot)
        self.snapshot = snapshot
        return self._pushes(changes)

    def _pushes(self, changes: Mapping[str, Change]) -> Iterator[bytes]:
        warming: frozenset[str] = frozenset()
        for url in TYPE_URLS:
            change = changes[url]
            watch = self.watches.get(url)
            if watch is None:
                warming = frozenset()
                continue
            affected = watch.of(change.changed | change.removed)
            if url not in WILDCARD_TYPES:
                affected |= watch.of(warming)
            if affected:
                yield self.push(url, watch, affected)
            warming = self._warming(url, change)

    @property
    def name(self) -> str:
        """The client as people know it: ``webapp-x.istioinaction``."""
        return f"{self.node.workload}.{self.node.namespace}"

    def resources(self, url: str) -> Iterator[Encoded]:
        """Yield what the client has been sent of a type, whether it took it or not."""
        watch = self.watches.get(url)
        if watch is not None and watch.nonce:
            known = self.snapshot[url]
            yield from (known[name] for name in (known if watch.everything else sorted(watch.names & known.keys())))

    def _warming(self, url: str, change: Change) -> frozenset[str]:
        """Return the names of the type that follows ``url`` to send again although they may not have changed.

        Envoy warms a changed cluster (listener) until its endpoints (routes) arrive *after* it,
        and asks for them with the names and nonce it already had, which is no news to a server.
        """
        if not change.changed or self.proxyless or url not in (CLUSTER, LISTENER):
            return frozenset()
        if url == LISTENER:
            return self.watches[ROUTE].names if ROUTE in self.watches else frozenset()
        clusters = (self.snapshot[CLUSTER][name].message for name in change.changed)
        return frozenset(map(_eds_name, clusters))

    def note_verdict(self, url: str, watch: Watch, request: Any) -> None:
        """Note what the client said to the last response."""
        if not request.HasField("error_detail"):
            watch.acked_nonce, watch.acked_version, watch.error = watch.nonce, watch.version, ""
            return
        reason = request.error_detail.message or "no reason given"
        if watch.error != reason:
            logger.warning(
                "%s refused %s version %s and keeps what it had: %s", self.name, _SHORT[url], watch.version, reason
            )
        watch.error = reason

    def note_sent(self, watch: Watch) -> None:
        """Note a response of the present snapshot; the watch has its version and nonce."""
        watch.version = self.snapshot.version
        watch.nonce = f"{watch.version}{uuid.uuid4()}"
        watch.sent_at = self._clock()
        watch.error = ""

    def warn_unserved(self, url: str) -> None:
        """Tell once that the client asks for what nobody makes."""
        if url not in self._unserved and len(self._unserved) < _MOST_TOLD:
            self._unserved.add(url)
            logger.warning("%s asks for %s, which is not served here; it gets no answer", self.name, url[:200])


_MOST_TOLD = 20  # types a client can make us remember and log


def empty(url: str, name: str) -> Encoded:
    """Return the resource that says that there is nothing of the name."""
    if url == ENDPOINT:
        return Encoded(url, name, endpoint_pb2.ClusterLoadAssignment(cluster_name=name))
    return Encoded(url, name, route_pb2.RouteConfiguration(name=name))


def _eds_name(cluster: Any) -> str:
    return cluster.eds_cluster_config.service_name or cluster.name if cluster.type == cluster_pb2.Cluster.EDS else ""
