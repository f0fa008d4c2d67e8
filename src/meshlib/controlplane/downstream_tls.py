"""ServerTLSSettings of a Gateway to DownstreamTlsContext, as istiod writes it."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2

from meshlib.controlplane.documents.gateway import Server, ServerTls
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.protobuf import pack
from meshlib.controlplane.transport_security import agent, impatient_ads

_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
)
_VERSIONS = {
    "TLSV1_0": common_pb2.TlsParameters.TLSv1_0,
    "TLSV1_1": common_pb2.TlsParameters.TLSv1_1,
    "TLSV1_2": common_pb2.TlsParameters.TLSv1_2,
    "TLSV1_3": common_pb2.TlsParameters.TLSv1_3,
}


def transport_socket(server: Server, tls: ServerTls, options: MeshOptions) -> Any:
    """Return how a Gateway's server ends TLS."""
    context = tls_pb2.DownstreamTlsContext()
    common = context.common_tls_context
    mutual = tls.mode == "ISTIO_MUTUAL"
    bytes_alone = mutual and server.port.protocol in ("TLS", "TCP", "MONGO")
    common.alpn_protocols.extend(["istio-peer-exchange", "h2", "http/1.1"] if bytes_alone else ["h2", "http/1.1"])
    context.require_client_certificate.value = tls.mode in ("MUTUAL", "ISTIO_MUTUAL")
    validates = tls.mode in ("MUTUAL", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL")
    if mutual:
        _sds(common, "default", agent())
        _validated(common, tls, "ROOTCA", agent())
    elif tls.credential_names or tls.credential_name:
        _credentials(common, tls, validates=validates)
    elif options.managed:
        _agent_files(common, tls, validates=validates)
    else:
        _files(common, tls, validates=validates)
    if not mutual:
        _parameters(common, tls)
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def mesh_socket(options: MeshOptions, *, tcp: bool) -> Any:
    """Return how a sidecar ends the mesh's mTLS: with clients of the trust domain alone."""
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = True
    common = context.common_tls_context
    written = options.mesh.mesh_mtls if options.mesh else None
    least = written.min_protocol_version if written else ""
    common.tls_params.tls_minimum_protocol_version = _VERSIONS.get(least, common_pb2.TlsParameters.TLSv1_2)
    common.tls_params.tls_maximum_protocol_version = common_pb2.TlsParameters.TLSv1_3
    common.tls_params.cipher_suites.extend((written and written.cipher_suites) or _CIPHERS)
    common.alpn_protocols.extend(["istio-peer-exchange", "h2", "http/1.1"] if tcp else ["h2", "http/1.1"])
    _sds(common, "default", agent())
    combined = common.combined_validation_context
    aliases = options.mesh.trust_domain_aliases if options.mesh else ()
    for domain in dict.fromkeys((options.trust_domain, *aliases)):
        combined.default_validation_context.match_subject_alt_names.add(prefix=f"spiffe://{domain}/")
    combined.validation_context_sds_secret_config.name = "ROOTCA"
    combined.validation_context_sds_secret_config.sds_config.CopyFrom(agent())
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _sds(common: Any, name: str, source: Any) -> None:
    common.tls_certificate_sds_secret_configs.add(name=name).sds_config.CopyFrom(source)


def _validated(common: Any, tls: ServerTls, name: str, source: Any) -> None:
    """Have clients' certificates checked against a CA that comes by SDS."""
    combined = common.combined_validation_context
    combined.default_validation_context.SetInParent()
    _pinned(combined.default_validation_context, tls)
    for item in tls.subject_alt_names:
        combined.default_validation_context.match_subject_alt_names.add(exact=item)  # the deprecated field, as istiod
    if tls.ca_crl:
        combined.default_validation_context.crl.filename = tls.ca_crl
    combined.validation_context_sds_secret_config.name = name
    combined.validation_context_sds_secret_config.sds_config.CopyFrom(source)


def _credentials(common: Any, tls: ServerTls, *, validates: bool) -> None:
    names = tls.credential_names or (tls.credential_name,)
    for name in names:
        _sds(common, f"kubernetes://{name}", impatient_ads())
    if validates:
        authority = tls.ca_cert_credential_name or f"{names[0]}-cacert"
        _validated(common, tls, f"kubernetes://{authority}", impatient_ads())


def _agent_files(common: Any, tls: ServerTls, *, validates: bool) -> None:
    """Name the files to Istio's agent, which reads them."""
    for certificate, key in tls.files:
        _sds(common, f"file-cert:{certificate}~{key}", agent(patient=False))
    if validates:
        _validated(common, tls, f"file-root:{tls.ca_certificates}", agent(patient=False))


def _files(common: Any, tls: ServerTls, *, validates: bool) -> None:
    for certificate, key in tls.files:
        made = common.tls_certificates.add()
        made.certificate_chain.filename, made.private_key.filename = certificate, key
    if validates:
        context = common.validation_context
        context.trusted_ca.filename = tls.ca_certificates
        _pinned(context, tls)
        if tls.ca_crl:
            context.crl.filename = tls.ca_crl
        for item in tls.subject_alt_names:
            kind = common_pb2.SubjectAltNameMatcher.URI if "://" in item else common_pb2.SubjectAltNameMatcher.DNS
            context.match_typed_subject_alt_names.add(san_type=kind).matcher.exact = item


def _pinned(context: Any, tls: ServerTls) -> None:
    context.verify_certificate_hash.extend(tls.verify_certificate_hash)
    context.verify_certificate_spki.extend(tls.verify_certificate_spki)


def _parameters(common: Any, tls: ServerTls) -> None:
    if tls.min_protocol_version in _VERSIONS:
        common.tls_params.tls_minimum_protocol_version = _VERSIONS[tls.min_protocol_version]
    if tls.max_protocol_version in _VERSIONS:
        common.tls_params.tls_maximum_protocol_version = _VERSIONS[tls.max_protocol_version]
    if tls.cipher_suites:
        common.tls_params.cipher_suites.extend(tls.cipher_suites)
