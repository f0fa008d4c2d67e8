"""What the TLS of a cluster refers to, put in its place: secrets that came, and certificate providers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshlib.model.cluster import Cluster, TransportSocket
from meshlib.model.tls import CertificateValidation, DataSource, Secret, SecretRef, TlsCertificate
from meshlib.xds.bootstrap_parts import CertificateFiles
from meshlib.xds.config_source import elsewhere
from meshlib.xds.resource import Resource

Providers = Mapping[str, CertificateFiles]
Named = Mapping[str, Resource | None]


def resolved(cluster: Cluster, secrets: Named, providers: Providers) -> Cluster:
    """Return a cluster whose TLS refers to nothing any more; what is missing refuses its connections.

    The cluster itself where there is nothing to put in its place, as in most.

    Args:
        cluster: the cluster.
        secrets: what there is of the SDS resources it names.
        providers: the bootstrap's certificate providers.
    """
    own, matches = cluster.transport_socket, cluster.transport_socket_matches
    if not (own is not None and _lacks(own)) and not any(_lacks(match.socket) for match in matches):
        return cluster

    def lookup(reference: SecretRef, kind: type[Secret]) -> Secret | str:
        if not reference.resource:
            return _provided(reference.name, kind, providers)
        resource = secrets.get(reference.resource)
        if resource is None:
            where = elsewhere(reference.resource)
            return (
                "is not asked for, since ADS does not go there"
                if where is not None and where.cluster
                else "is not there"
            )
        value = resource.value
        return value if isinstance(value, kind) else f"is another kind of secret ({type(value).__name__})"

    def of(socket: TransportSocket) -> TransportSocket:
        return socket if socket.tls is None else replace(socket, tls=socket.tls.resolved(lookup))

    return replace(
        cluster,
        transport_socket=None if own is None else of(own),
        transport_socket_matches=tuple(replace(match, socket=of(match.socket)) for match in matches),
    )


def _lacks(socket: TransportSocket) -> bool:
    return socket.tls is not None and bool(socket.tls.references)


def _provided(name: str, kind: type[Secret], providers: Providers) -> Secret | str:
    """Return what a ``file_watcher`` instance gives (gRFC A29)."""
    files = providers.get(name)
    if files is None:
        return "there is no such instance" + (f" among {', '.join(sorted(providers))}" if providers else "")
    if kind is TlsCertificate:
        if not (files.certificate_file and files.private_key_file):
            return "the instance has no certificate_file and private_key_file"
        return TlsCertificate(DataSource(files.certificate_file), DataSource(files.private_key_file))
    if not files.ca_certificate_file:
        return "the instance has no ca_certificate_file"
    return CertificateValidation(trusted_ca=DataSource(files.ca_certificate_file))
