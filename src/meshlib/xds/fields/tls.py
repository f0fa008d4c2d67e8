"""TLS towards endpoints, and secrets. What is refused here refuses the connections of the cluster."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import Fields, alike, fields

_TLS = "envoy.extensions.transport_sockets.tls.v3."
_CORE = "envoy.config.core.v3."

_WATCHED = "files in use are looked at, once a second, whatever folder they are in"
_SERVER = "a server's to say"
_EXTENSION = "extensions of TLS are not loaded"
_INSTANCE = {"certificate_name": "an instance of the bootstrap has one certificate and one set of CAs"}

FIELDS: Mapping[str, Fields] = {
    _TLS + "UpstreamTlsContext": fields(
        "common_tls_context sni auto_host_sni auto_sni_san_validation allow_renegotiation max_session_keys",
        unsupported={"enforce_rsa_key_usage": "key usage is judged by OpenSSL's rules"},
    ),
    _TLS + "CommonTlsContext": fields(
        "tls_params tls_certificates tls_certificate_sds_secret_configs tls_certificate_provider_instance "
        "tls_certificate_certificate_provider_instance validation_context validation_context_sds_secret_config "
        "combined_validation_context validation_context_certificate_provider_instance alpn_protocols",
        unsupported={"key_log": "keys are not written anywhere"},
        refused=alike(
            "custom_tls_certificate_selector tls_certificate_certificate_provider "
            "validation_context_certificate_provider custom_handshaker",
            _EXTENSION,
        ),
    ),
    _TLS + "CommonTlsContext.CombinedCertificateValidationContext": fields(
        "default_validation_context validation_context_sds_secret_config "
        "validation_context_certificate_provider_instance",
        refused={"validation_context_certificate_provider": _EXTENSION},
    ),
    _TLS + "CommonTlsContext.CertificateProviderInstance": fields("instance_name", _INSTANCE),
    _TLS + "CertificateProviderPluginInstance": fields("instance_name", _INSTANCE),
    _TLS + "CertificateValidationContext": fields(
        "trusted_ca ca_certificate_provider_instance system_root_certs verify_certificate_spki "
        "verify_certificate_hash match_typed_subject_alt_names match_subject_alt_names crl "
        "allow_expired_certificate trust_chain_verification only_verify_leaf_cert_crl",
        {"watched_directory": _WATCHED},
        refused={
            "require_signed_certificate_timestamp": "certificate transparency is not checked",
            "custom_validator_config": _EXTENSION,
            "max_verify_depth": "Python's ssl does not bound the length of a chain",
        },
    ),
    _TLS + "CertificateValidationContext.SystemRootCerts": fields(),
    _TLS + "SubjectAltNameMatcher": fields("san_type matcher", {"oid": "belongs to OTHER_NAME, which is refused"}),
    _TLS + "TlsCertificate": fields(
        "certificate_chain private_key password",
        {"watched_directory": _WATCHED, **alike("ocsp_staple signed_certificate_timestamp", _SERVER)},
        refused={
            "pkcs12": "Python's ssl reads PEM: give certificate_chain and private_key",
            "private_key_provider": _EXTENSION,
        },
    ),
    _TLS + "TlsParameters": fields(
        "tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites ecdh_curves",
        refused=alike("signature_algorithms compliance_policies", "Python's ssl cannot be told"),
    ),
    _TLS + "SdsSecretConfig": fields("name sds_config"),
    _TLS + "Secret": fields("name tls_certificate validation_context", faulty="session_ticket_keys generic_secret"),
    _CORE + "PathConfigSource": fields("path watched_directory"),
    _CORE + "WatchedDirectory": fields("path"),
    _CORE + "ApiConfigSource": fields(
        "grpc_services",
        alike(
            "api_type transport_api_version set_node_on_first_message_only",
            "a cluster that is the ADS server's is asked in the ADS stream; no other is asked",
        ),
    ),
    _CORE + "GrpcService": fields(
        "envoy_grpc", {"timeout": "streams are open without end"}, unsupported={"google_grpc": "is not asked"}
    ),
    _CORE + "GrpcService.EnvoyGrpc": fields("cluster_name"),
}
