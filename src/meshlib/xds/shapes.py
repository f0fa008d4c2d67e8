"""Shapes: what is left of a resource when the names that are its own are taken out.

A control plane makes its resources from few templates: of ten thousand clusters nearly all are
the same but for their names. Decoding a resource to see whether anything in it is wrong costs a
hundred times what parsing it costs, so it is done once a shape: whatever was found valid makes
every resource of its shape valid, because what was taken out is opaque to the decoders, or is
checked here. What is not of a known shape is decoded whole.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.xds.protos import tls_pb2
from meshlib.xds.resource import Remark

_TLS_URL = "type.googleapis.com/" + tls_pb2.UpstreamTlsContext.DESCRIPTOR.full_name
_LONGEST_SNI = 255  # UpstreamTlsContext.sni, validate.rules
_FEW_ROUTES = 8  # so many are looked up together


class Shapes:
    """The shapes found valid so far, with what of them is not honoured. Any thread.

    Facts about bytes, true whatever the mesh; forgotten all at once when there are too many.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int = 16384) -> None:
        self._known: dict[object, Sequence[Remark]] = {}
        self._limit = limit

    def get(self, shape: object) -> Sequence[Remark] | None:
        """Return the notes of a valid shape, None for one that is not known."""
        return self._known.get(shape)

    def add(self, shape: object, notes: Sequence[Remark]) -> None:
        """Keep a shape that was found valid."""
        if len(self._known) >= self._limit:
            self._known.clear()
        self._known[shape] = notes


def cluster_shape(cluster: Any) -> bytes:
    """Return the shape of a ``cluster.v3.Cluster`` that has a name; the message is spoilt by it."""
    cluster.ClearField("name")
    cluster.ClearField("alt_stat_name")
    cluster.ClearField("metadata")
    if cluster.eds_cluster_config.service_name:
        cluster.eds_cluster_config.service_name = ""
    for match in cluster.transport_socket_matches:
        _take_identity_out(match.transport_socket.typed_config)
    if cluster.HasField("transport_socket"):
        _take_identity_out(cluster.transport_socket.typed_config)
    shape: bytes = cluster.SerializeToString(deterministic=True)
    return shape


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


def assignment_shape(assignment: Any) -> bytes | None:
    """Return the shape of a ``ClusterLoadAssignment`` that has a name, None where an address needs a closer look.

    Addresses and ports are checked here: an IPv4 address, as ``inet_pton`` takes it, and a port of
    1 to 65535. The message is spoilt by it.
    """
    assignment.ClearField("cluster_name")
    check = socket.inet_pton
    for group in assignment.endpoints:
        for lb in group.lb_endpoints:
            lb.ClearField("metadata")
            address = lb.endpoint.address.socket_address
            if not 0 < address.port_value < 65536:
                return None
            try:
                check(socket.AF_INET, address.address)
            except (OSError, ValueError):
                return None
            address.address = ""
            address.port_value = 1
    shape: bytes = assignment.SerializeToString(deterministic=True)
    return shape


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
    routes = host.routes
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
        for target in action.weighted_clusters.clusters:
            if target.name:  # else a header names it
                clusters[target.name] = None
