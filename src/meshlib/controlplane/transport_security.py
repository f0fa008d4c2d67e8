"""ClientTLSSettings to UpstreamTlsContext.

The embedded mesh has no certificates of its own (``MeshOptions.enable_auto_mtls`` is False), so
plaintext is what endpoints get where nobody asks for TLS. Where a DestinationRule does ask, the
cluster always carries the transport socket: a client that cannot honour it must refuse the
call, never make it in plaintext.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
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
        _workload_identity(common, tls.subject_alt_names or service_accounts(service, options))
        context.sni = tls.sni or f"outbound_.{port}_.{subset}_.{service.host}"
        common.alpn_protocols.extend(["istio-peer-exchange", "istio"])
    else:
        _certificates(common, tls, options)
        _validation(common, tls, service, options)
    if http2:
        common.alpn_protocols.append("h2")
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def auto_mtls(message: Any, service: Service, port: int, subset: str, options: MeshOptions, *, http2: bool) -> None:
    """Have a Cluster speak mTLS with the endpoints that are marked for it, plaintext with the others."""
    context = tls_pb2.UpstreamTlsContext(sni=f"outbound_.{port}_.{subset}_.{service.host}")
    common = context.common_tls_context
    common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
    common.tls_params.tls_maximum_protocol_version = common_pb2.TlsParameters.TLSv1_3
    _workload_identity(common, service_accounts(service, options))
    common.alpn_protocols.extend(["istio-peer-exchange", "istio", *(["h2"] if http2 else [])])
    socket = base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))
    if message.type == cluster_pb2.Cluster.ORIGINAL_DST:  # nothing says which endpoint has it
        message.transport_socket.CopyFrom(socket)
        return
    tls = message.transport_socket_matches.add(name="tlsMode-istio", transport_socket=socket)
    tls.match["tlsMode"] = "istio"
    plain = message.transport_socket_matches.add(name="tlsMode-disabled")
    plain.match.SetInParent()
    plain.transport_socket.name = "envoy.transport_sockets.raw_buffer"
    plain.transport_socket.typed_config.CopyFrom(pack(raw_buffer_pb2.RawBuffer()))


def service_accounts(service: Service, options: MeshOptions) -> list[str]:
    """Return the SPIFFE names of what answers for a service."""
    accounts = {
        (endpoint.namespace, endpoint.service_account)
        for port in service.ports
        for endpoint in port.endpoints
        if endpoint.service_account
    }
    names = {
        f"spiffe://{domain}/ns/{namespace}/sa/{name}"
        for namespace, name in accounts
        for domain in options.trust_domains
    }
    return sorted({*names, *service.subject_alt_names})


def provider_identity(service: Service, options: MeshOptions) -> Any:
    """Return mTLS as gRPC understands it: certificates of its bootstrap's provider, in the old and the new fields."""
    context = tls_pb2.UpstreamTlsContext()
    provided(context.common_tls_context)
    validation = context.common_tls_context.combined_validation_context.default_validation_context
    for name in service_accounts(service, options):
        validation.match_subject_alt_names.add(exact=name)  # the deprecated field, as istiod
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def provided(common: Any) -> None:
    """Have the certificates come from gRPC's provider ``default``."""
    for field in (common.tls_certificate_certificate_provider_instance, common.tls_certificate_provider_instance):
        field.instance_name, field.certificate_name = "default", "default"
    combined = common.combined_validation_context
    for field in (
        combined.default_validation_context.ca_certificate_provider_instance,
        combined.validation_context_certificate_provider_instance,
    ):
        field.instance_name, field.certificate_name = "default", "ROOTCA"


def derives_sni(tls: ClientTls | None) -> bool:
    """Tell whether the server name is taken from the request's host (no ``sni`` is written)."""
    return tls is not None and tls.mode in ("SIMPLE", "MUTUAL") and not tls.sni


def _certificates(common: Any, tls: ClientTls, options: MeshOptions) -> None:
    if tls.mode == "MUTUAL" and tls.credential_name:
        secret = common.tls_certificate_sds_secret_configs.add(name=f"kubernetes://{tls.credential_name}")
        secret.sds_config.CopyFrom(impatient_ads())
    elif tls.mode == "MUTUAL" and options.managed:
        secret = common.tls_certificate_sds_secret_configs.add(
            name=f"file-cert:{tls.client_certificate}~{tls.private_key}"
        )
        secret.sds_config.CopyFrom(agent(patient=False))
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
        context.SetInParent()
        combined.validation_context_sds_secret_config.sds_config.CopyFrom(impatient_ads())
    elif options.managed:
        # Istio's agent reads the file, and validates by names in the deprecated field, as istiod has it.
        combined = common.combined_validation_context
        combined.default_validation_context.SetInParent()
        combined.validation_context_sds_secret_config.name = f"file-root:{tls.ca_certificates or 'system'}"
        combined.validation_context_sds_secret_config.sds_config.CopyFrom(agent(patient=False))
        for name in names:
            combined.default_validation_context.match_subject_alt_names.add(exact=name)
        return
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


def _workload_identity(common: Any, names: Iterable[str]) -> None:
    """Ask for Istio's own certificates by their SDS names, as istiod does; clients without them refuse."""
    common.tls_certificate_sds_secret_configs.add(name="default").sds_config.CopyFrom(agent())
    secret = common.combined_validation_context.validation_context_sds_secret_config
    validation = common.combined_validation_context.default_validation_context
    validation.SetInParent()
    for name in names:
        validation.match_subject_alt_names.add(exact=name)  # the deprecated field, as istiod
    secret.name = "ROOTCA"
    secret.sds_config.CopyFrom(agent())


def impatient_ads() -> Any:
    """Return the source of a secret by name, which istiod lets time out."""
    source = ads()
    source.ClearField("initial_fetch_timeout")
    return source


def agent(*, patient: bool = True) -> Any:
    """Return the source that is Istio's agent, without a fetch timeout where ``patient``, as istiod's."""
    source = config_source_pb2.ConfigSource(resource_api_version=config_source_pb2.ApiVersion.V3)
    if patient:
        source.initial_fetch_timeout.CopyFrom(duration(0))
    api = source.api_config_source
    api.api_type = config_source_pb2.ApiConfigSource.GRPC
    api.transport_api_version = config_source_pb2.ApiVersion.V3
    api.set_node_on_first_message_only = True
    api.grpc_services.add().envoy_grpc.cluster_name = "sds-grpc"
    return source
