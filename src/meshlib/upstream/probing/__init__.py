"""Active health checks on the wire: HTTP/1.1, HTTP/2, TCP and gRPC, each over a connection of its own."""

from __future__ import annotations

from meshlib.model.cluster import Cluster, TransportSocket
from meshlib.model.endpoint import Endpoint
from meshlib.model.health_check import GrpcCheck, HealthCheck, HttpCheck, TcpCheck
from meshlib.upstream.probing.connecting import Dialled
from meshlib.upstream.probing.grpc import GrpcProbe
from meshlib.upstream.probing.http import HttpProbe
from meshlib.upstream.probing.tcp import TcpProbe

Probe = HttpProbe | TcpProbe | GrpcProbe


def probe_of(cluster: Cluster, endpoint: Endpoint, check: HealthCheck, socket: TransportSocket | None) -> Probe:
    """Return what makes ``check`` of ``endpoint``, in the event loop that then runs it.

    Args:
        cluster: whose name stands in where no host is configured.
        endpoint: what is checked.
        check: how.
        socket: the transport socket in force.
    """
    dialled = Dialled(_address(endpoint, check), socket, cluster.connect_timeout)
    how, keep, own = check.check, check.reuse_connection, endpoint.check.host
    if isinstance(how, TcpCheck):
        return TcpProbe(dialled, how, keep=keep)
    if isinstance(how, GrpcCheck):
        return GrpcProbe(dialled, how, own or how.authority or cluster.name, keep=keep)
    assert isinstance(how, HttpCheck)
    return HttpProbe(dialled, how, own or how.host or cluster.name, keep=keep)


def _address(endpoint: Endpoint, check: HealthCheck) -> tuple[str, int]:
    """Return what is checked of an endpoint: as Envoy, its own address or port first, then the check's."""
    own = endpoint.check
    host, port = own.address or (endpoint.host, endpoint.port)
    if not port:
        return host, 0  # a unix socket
    return host, own.port or (port if own.address else check.alt_port or port)
