"""What the control plane has for one node: xDS resources by type and name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from google.protobuf.message import Message

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
NAME_TABLE = "type.googleapis.com/istio.networking.nds.v1.NameTable"

# Order of a push, as istiod's: what is named comes before what names it.
TYPE_URLS = (CLUSTER, ENDPOINT, LISTENER, ROUTE, NAME_TABLE)

_ONLY = "nds"  # a name table names itself nowhere, and there is one


@dataclass(frozen=True, slots=True, eq=False)
class Resources:
    """The xDS resources of one node; equal input gives equal content, in equal order.

    Compared by identity: whoever has the same object has the same resources.

    Attributes:
        by_type: type URL -> resource name -> message. All of ``TYPE_URLS`` are there. The
            messages are shared: never change one.
    """

    by_type: Mapping[str, Mapping[str, Message]] = field(
        default_factory=lambda: MappingProxyType({url: MappingProxyType({}) for url in TYPE_URLS})
    )

    @classmethod
    def build(
        cls,
        *,
        listeners: Iterable[Message],
        routes: Iterable[Message],
        clusters: Iterable[Message],
        endpoints: Iterable[Message],
        names: Message | None = None,
    ) -> Resources:
        """Return the resources under their own names; the first of a name wins.

        ``names`` is the name table, for nodes that have one.
        """
        by_type = {
            CLUSTER: _by_name(clusters, "name"),
            ENDPOINT: _by_name(endpoints, "cluster_name"),
            LISTENER: _by_name(listeners, "name"),
            ROUTE: _by_name(routes, "name"),
            NAME_TABLE: MappingProxyType({} if names is None else {_ONLY: names}),
        }
        return cls(MappingProxyType(by_type))

    @property
    def listeners(self) -> Mapping[str, Message]:
        """The Listeners by name."""
        return self.by_type[LISTENER]

    @property
    def routes(self) -> Mapping[str, Message]:
        """The RouteConfigurations by name."""
        return self.by_type[ROUTE]

    @property
    def clusters(self) -> Mapping[str, Message]:
        """The Clusters by name."""
        return self.by_type[CLUSTER]

    @property
    def endpoints(self) -> Mapping[str, Message]:
        """The ClusterLoadAssignments by cluster name."""
        return self.by_type[ENDPOINT]


def _by_name(messages: Iterable[Message], attribute: str) -> Mapping[str, Message]:
    named: dict[str, Message] = {}
    for message in messages:
        named.setdefault(getattr(message, attribute), message)
    return MappingProxyType(named)
