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
    how, keep, own = check.check, check.reuse_connection, endpoint.check.host
    http2 = isinstance(how, GrpcCheck) or (isinstance(how, HttpCheck) and how.http2)
    dialled = Dialled(_address(endpoint), cluster, endpoint, socket, http2)
    if isinstance(how, TcpCheck):
        return TcpProbe(dialled, how, keep=keep)
    if isinstance(how, GrpcCheck):
        return GrpcProbe(dialled, how, own or how.authority or cluster.name, keep=keep)
    assert isinstance(how, HttpCheck)
    return HttpProbe(dialled, how, own or how.host or cluster.name, keep=keep)


def _address(endpoint: Endpoint) -> tuple[str, int]:
    """Return what is checked of an endpoint: the address and port that its ``health_check_config`` says."""
    own = endpoint.check
    host, port = own.address or (endpoint.host, endpoint.port)
    return host, (own.port or port) if port else 0  # no port: a unix socket
