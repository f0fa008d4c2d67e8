"""ClientTLSSettings to UpstreamTlsContext.

The embedded mesh has no certificates of its own (``MeshOptions.enable_auto_mtls`` is False), so
plaintext is what endpoints get where nobody asks for TLS. Where a DestinationRule does ask, the
cluster always carries the transport socket: a client that cannot honour it must refuse the
call, never make it in plaintext.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2

from meshlib.controlplane.documents.destination_rule import ClientTls
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.protobuf import ads, duration, pack
from meshlib.controlplane.services import Service


def transport_socket(
    tls: ClientTls, service: Service, port: int, subset: str, options: MeshOptions, *, http2: bool
) -> Any | None:
    """Return the transport socket that the settings ask for, None for DISABLE."""
    if tls.mode == "DISABLE":
        return None
    context = tls_pb2.UpstreamTlsContext(sni=tls.sni)
    common = context.common_tls_context
    common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
    common.tls_params.tls_maximum_protocol_version = common_pb2.TlsParameters.TLSv1_3
    if tls.mode == "ISTIO_MUTUAL":
        _workload_identity(common)
        context.sni = tls.sni or f"outbound_.{port}_.{subset}_.{service.host}"
        common.alpn_protocols.extend(["istio-peer-exchange", "istio"])
    else:
        _certificates(common, tls)
        _validation(common, tls, service, options)
    if http2:
        common.alpn_protocols.append("h2")
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def derives_sni(tls: ClientTls | None) -> bool:
    """Tell whether the server name is taken from the request's host (no ``sni`` is written)."""
    return tls is not None and tls.mode in ("SIMPLE", "MUTUAL") and not tls.sni


def _certificates(common: Any, tls: ClientTls) -> None:
    if tls.mode == "MUTUAL" and tls.credential_name:
        secret = common.tls_certificate_sds_secret_configs.add(name=f"kubernetes://{tls.credential_name}")
        secret.sds_config.CopyFrom(ads())
    elif tls.mode == "MUTUAL":
        certificate = common.tls_certificates.add()
        certificate.certificate_chain.filename = tls.client_certificate
        certificate.private_key.filename = tls.private_key


def _validation(common: Any, tls: ClientTls, service: Service, options: MeshOptions) -> None:
    context = common.validation_context
    if tls.insecure_skip_verify:
        context.SetInParent()
        return
    names = tls.subject_alt_names or service.subject_alt_names
    if tls.credential_name:
        combined = common.combined_validation_context
        context = combined.default_validation_context
        combined.validation_context_sds_secret_config.name = f"kubernetes://{tls.credential_name}-cacert"
        combined.validation_context_sds_secret_config.sds_config.CopyFrom(ads())
    else:
        # Never left out: without a CA Envoy would take any certificate. `system_root_certs`
        # is gRPC's alone.
        context.trusted_ca.filename = (
            tls.ca_certificates if tls.ca_certificates not in ("", "system") else options.system_ca
        )
    if tls.ca_crl:
        context.crl.filename = tls.ca_crl
    for name in names:
        kind = common_pb2.SubjectAltNameMatcher.URI if "://" in name else common_pb2.SubjectAltNameMatcher.DNS
        context.match_typed_subject_alt_names.add(san_type=kind).matcher.exact = name


def _workload_identity(common: Any) -> None:
    """Ask for Istio's own certificates by their SDS names, as istiod does; clients without them refuse."""
    common.tls_certificate_sds_secret_configs.add(name="default").sds_config.CopyFrom(_agent())
    secret = common.combined_validation_context.validation_context_sds_secret_config
    common.combined_validation_context.default_validation_context.SetInParent()
    secret.name = "ROOTCA"
    secret.sds_config.CopyFrom(_agent())


def _agent() -> Any:
    source = config_source_pb2.ConfigSource(
        initial_fetch_timeout=duration(0), resource_api_version=config_source_pb2.ApiVersion.V3
    )
    api = source.api_config_source
    api.api_type = config_source_pb2.ApiConfigSource.GRPC
    api.transport_api_version = config_source_pb2.ApiVersion.V3
    api.set_node_on_first_message_only = True
    api.grpc_services.add().envoy_grpc.cluster_name = "sds-grpc"
    return source
