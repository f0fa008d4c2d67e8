"""Shapes: what is left of a resource when the names that are its own are taken out.

A control plane makes its resources from few templates: of ten thousand clusters nearly all are
the same but for their names. Decoding a resource to see whether anything in it is wrong costs a
hundred times what parsing it costs, so it is done once a shape: whatever was found valid makes
every resource of its shape valid, because what was taken out is opaque to the decoders, or is
checked here. What is not of a known shape is decoded whole.

Repeated fields are sliced here before they are gone through: protobuf ends an iteration by an
IndexError of its own, which costs more than the slice.
"""

from __future__ import annotations

import socket
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError

from meshlib.xds import wire
from meshlib.xds.protos import tls_pb2

_Found = TypeVar("_Found")
Outline = tuple[str, Hashable | None, str]
"""Of a resource, its name, its shape (None: it has to be looked at closer), and the EDS resource it asks for if it is
an EDS cluster."""

_TLS_URL = "type.googleapis.com/" + tls_pb2.UpstreamTlsContext.DESCRIPTOR.full_name
_LONGEST_SNI = 255  # UpstreamTlsContext.sni, validate.rules
_FEW_ROUTES = 8  # so many are looked up together


class Shapes(Generic[_Found]):
    """The shapes found valid so far, with what holds for all of that shape. Any thread.

    Facts about bytes, true whatever the mesh; forgotten all at once when there are too many.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int = 16384) -> None:
        self._known: dict[Hashable, _Found] = {}
        self._limit = limit

    def get(self, shape: Hashable) -> _Found | None:
        """Return what holds for a valid shape, None for one that is not known."""
        return self._known.get(shape)

    def add(self, shape: Hashable, found: _Found) -> None:
        """Keep a shape that was found valid."""
        if len(self._known) >= self._limit:
            self._known.clear()
        self._known[shape] = found


def cluster_outline(value: bytes) -> Outline:
    """Return the outline of a ``cluster.v3.Cluster``; raises ``DecodeError``."""
    cluster = wire.Cluster.FromString(value)
    name = eds_name = cluster.name
    cluster.ClearField("name")
    cluster.ClearField("alt_stat_name")
    cluster.ClearField("metadata")
    config = cluster.eds_cluster_config
    if service_name := config.service_name:
        eds_name = service_name
        config.ClearField("service_name")
    for match in cluster.transport_socket_matches[:]:
        _take_identity_out(match.transport_socket.typed_config)
    if cluster.HasField("transport_socket"):
        _take_identity_out(cluster.transport_socket.typed_config)
    return name, cluster.SerializeToString(), eds_name


def _take_identity_out(config: Any) -> None:
    """Take SNI and exact SANs out of an UpstreamTlsContext: Istio writes the service's own there."""
    if config.type_url != _TLS_URL:
        return
    try:
        context = tls_pb2.UpstreamTlsContext.FromString(config.value)
    except DecodeError:
        return
    if len(context.sni) <= _LONGEST_SNI and context.sni.isprintable():
        context.ClearField("sni")
    combined = context.common_tls_context.combined_validation_context
    for matcher in combined.default_validation_context.match_subject_alt_names:
        if matcher.exact:
            matcher.exact = "-"
    config.value = context.SerializeToString(deterministic=True)


def assignment_outline(value: bytes) -> Outline:
    """Return the outline of a ``ClusterLoadAssignment``; raises ``DecodeError``.

    Addresses are checked here. Each endpoint has to begin with an address and a port and nothing
    else, as nearly all do, and there must be as many of those as there are endpoints. What else they
    have comes as lists: of an assignment in which each field was written once, and all was valid,
    every member of these lists is.
    """
    merged = wire.MergedLoadAssignment.FromString(value)
    name = merged.cluster_name
    merged.ClearField("cluster_name")
    ports: set[bytes] = set()
    ends, check, v4, v6 = _ADDRESS_ENDS, socket.inet_pton, socket.AF_INET, socket.AF_INET6
    groups = wire.ClusterLoadAssignment.FromString(value).endpoints[:]
    for group, apart in zip(merged.endpoints[:], groups, strict=True):
        members = apart.lb_endpoints[:]
        together = group.lb_endpoints
        if len(together.endpoint) != len(members):
            return name, None, ""
        try:
            for member in members:
                end = ends[member[:8]]
                address = member[8:end].decode()
                check(v6 if ":" in address else v4, address)
                ports.add(member[end : member[1] + 2])
        except (KeyError, OSError, ValueError):
            return name, None, ""
        together.ClearField("endpoint")
        together.ClearField("metadata")
    return name, (merged.SerializeToString(), frozenset(ports)), ""


def _address_ends() -> dict[bytes, int]:
    """Return where the address ends in an ``LbEndpoint`` that begins with address and port, by its first 8 bytes.

    These are the tags and lengths of endpoint, address, socket_address and address again.
    """
    ends: dict[bytes, int] = {}
    for address in range(2, 46):
        for port in (1, 2, 3):  # bytes of the number
            inner = 2 + address + 1 + port
            ends[bytes((0x0A, inner + 4, 0x0A, inner + 2, 0x0A, inner, 0x12, address))] = 8 + address
    return ends


_ADDRESS_ENDS = _address_ends()


def virtual_host_shape(host: Any) -> tuple[list[bytes], dict[str, None]]:
    """Return the shapes of a ``VirtualHost``, and the clusters its routes name.

    One shape, and one for each route where there are many. Its domains are for the table to check.
    The message is spoilt by it.
    """
    host.ClearField("name")
    host.ClearField("domains")
    host.ClearField("metadata")
    clusters: dict[str, None] = {}
    name_mirrors(host, clusters)
    routes = host.routes[:]
    for route in routes:
        _take_names_out(route, clusters)
    shapes: list[bytes] = []
    if len(routes) > _FEW_ROUTES:
        shapes = [route.SerializeToString(deterministic=True) for route in routes]
        host.ClearField("routes")
    shapes.append(host.SerializeToString(deterministic=True))
    return shapes, clusters


def name_mirrors(level: Any, clusters: dict[str, None]) -> None:
    """Add the clusters that copies of requests go to, by a table, a virtual host or a route."""
    for policy in level.request_mirror_policies:
        if policy.cluster:  # else a header names it
            clusters[policy.cluster] = None


def _take_names_out(route: Any, clusters: dict[str, None]) -> None:
    route.ClearField("name")
    route.ClearField("metadata")
    route.ClearField("decorator")
    match = route.match
    if match.prefix:
        match.prefix = "/"
    elif match.path:
        match.path = "/"
    action = route.route
    name_mirrors(action, clusters)
    if action.cluster:
        clusters[action.cluster] = None
        action.cluster = "-"
    else:
        for target in action.weighted_clusters.clusters[:]:
            if target.name:  # else a header names it
                clusters[target.name] = None
