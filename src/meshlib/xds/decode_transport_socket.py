"""Transport sockets: plaintext or not, and what a TLS one asks for, in words.

Only ``raw_buffer`` counts as plaintext. Whatever else a socket is, it is recorded as secure, so
that a call refuses what it cannot honour and never falls back to plaintext (semantics 4.16).
"""

from __future__ import annotations

from typing import Any

from meshlib.model.cluster import TransportSocket, TransportSocketMatch
from meshlib.xds.decode_values import any_type, plain_struct, unpack
from meshlib.xds.faults import Status, shortened
from meshlib.xds.protos import tls_pb2
from meshlib.xds.scope import Scope

_RAW_BUFFER = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
_NO_TLS = "TLS is not spoken: a call to an endpoint that needs it is refused"
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
        scope.note("typed_config", _NO_TLS, Status.REFUSED)
        return TransportSocket(socket.name, secure=True, detail=_describe(context) if context is not None else "TLS")
    scope.note(
        "typed_config",
        f"{kind or socket.name} is not spoken: a call to an endpoint that needs it is refused",
        Status.REFUSED,
    )
    return TransportSocket(socket.name, secure=True, detail=f"{kind or socket.name} is not supported")


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


def _describe(context: Any) -> str:
    common = context.common_tls_context
    names = [secret.name for secret in common.tls_certificate_sds_secret_configs]
    providers = [common.tls_certificate_provider_instance, common.tls_certificate_certificate_provider_instance]
    names += [provider.instance_name for provider in providers if provider.instance_name][:1]
    certificate = ", ".join(names) or ("its own" if common.tls_certificates else "")
    validation = common.combined_validation_context.default_validation_context
    if common.HasField("validation_context"):
        validation = common.validation_context
    sans = [san.matcher.exact or str(san.matcher).strip() for san in validation.match_typed_subject_alt_names]
    sans += [san.exact or str(san).strip() for san in validation.match_subject_alt_names]
    parts = ["mutual TLS with certificate " + certificate if certificate else "TLS"]
    parts += [f"SNI {context.sni}"] if context.sni else []
    parts += [f"server identity {' or '.join(sans)}"] if sans else []
    return shortened(", ".join(parts))
