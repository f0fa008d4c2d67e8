"""Transport sockets: plaintext or not, how TLS is spoken, and what it asks for in words.

Only ``raw_buffer`` counts as plaintext. Whatever else a socket is, it is recorded as secure, so
that a call refuses what it cannot honour and never falls back to plaintext (semantics 4.16).
"""

from __future__ import annotations

from typing import Any

from meshlib.model.cluster import TransportSocket, TransportSocketMatch
from meshlib.model.tls import SecretRef, TlsCertificate, UpstreamTls
from meshlib.xds.decode_tls import upstream_tls
from meshlib.xds.decode_values import any_type, plain_struct, unpack
from meshlib.xds.faults import Status, shortened
from meshlib.xds.protos import tls_pb2
from meshlib.xds.scope import Scope

_RAW_BUFFER = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
_TLS = tls_pb2.UpstreamTlsContext.DESCRIPTOR.full_name


def transport_socket(scope: Scope, socket: Any) -> TransportSocket:
    """Return a ``core.v3.TransportSocket``."""
    if not socket.name:
        scope.fault("name", "must not be empty")
    kind = any_type(socket.typed_config)
    if kind == _RAW_BUFFER or (not kind and socket.name == "envoy.transport_sockets.raw_buffer"):
        return TransportSocket(socket.name, secure=False)
    if kind == _TLS:
        context = unpack(scope, socket.typed_config, "typed_config", tls_pb2.UpstreamTlsContext)
        tls = upstream_tls(scope.at("typed_config"), context) if context is not None else None
        return TransportSocket(socket.name, secure=True, detail=_describe(tls) if tls is not None else "TLS", tls=tls)
    scope.note(
        "typed_config",
        f"{kind or socket.name} is not spoken: a call to an endpoint that needs it is refused",
        Status.REFUSED,
    )
    return TransportSocket(socket.name, secure=True, detail=kind or socket.name)


def transport_socket_matches(scope: Scope, matches: Any) -> tuple[TransportSocketMatch, ...]:
    """Return ``Cluster.transport_socket_matches``, in order."""
    found = []
    for i, match in enumerate(matches):
        place = scope.at("transport_socket_matches", i)
        place.audit(match)
        if not match.name:
            place.fault("name", "must not be empty")
        criteria = tuple(sorted(plain_struct(match.match).items()))
        socket = transport_socket(place.at("transport_socket"), match.transport_socket)
        found.append(TransportSocketMatch(match.name, criteria, socket))
    return tuple(found)


def _describe(tls: UpstreamTls) -> str:
    own, validation = tls.certificate, tls.validation
    parts = ["TLS"]
    if isinstance(own, SecretRef):
        parts = [f"mutual TLS with certificate {own.name}"]
    elif isinstance(own, TlsCertificate):
        parts = [f"mutual TLS with certificate {own.chain}"]
    parts += [f"SNI {tls.sni}"] if tls.sni else []
    if validation.sans:
        names = [san.match.value if san.match.op.value == "exact" else str(san.match) for san in validation.sans]
        parts.append(f"server identity {' or '.join(names)}")
    if tls.trust is None and (validation.accept_untrusted or not validation.has_ca) and not validation.spki:
        parts.append("the server's certificate not verified")
    return shortened(", ".join(parts))
