"""``UpstreamTlsContext`` and the ``Secret`` s it names.

A setting that cannot be honoured refuses the connection, never the resource: the rest of the
mesh stays, and a call to that cluster fails with the field's name (design.md, decision 12).
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import Any

from meshlib.model.match import StringOp
from meshlib.model.tls import (
    CertificateValidation,
    DataSource,
    SanMatch,
    SanType,
    Secret,
    SecretRef,
    TlsCertificate,
    TlsVersion,
    UpstreamTls,
)
from meshlib.xds.config_source import by_cluster, file_of, in_file, static
from meshlib.xds.decode_matchers import string_match
from meshlib.xds.decode_values import choice
from meshlib.xds.faults import Status
from meshlib.xds.protos import tls_common_pb2
from meshlib.xds.scope import Scope

_LONGEST_SNI = 255  # UpstreamTlsContext.sni, validate.rules
# Names that Istio's agent, to which `sds-grpc` leads, answers with files; so does this.
_FILE_CERTIFICATE, _FILE_ROOT, _SYSTEM_ROOT = "file-cert:", "file-root:", "file-root:system"
# Whether that is so the bootstrap says, when a cluster is put together: see `xds.secrets`.
_ASKED = "is asked only where it is the cluster that ADS goes to: else no call that needs it is made"
_SANS = {1: SanType.EMAIL, 2: SanType.DNS, 3: SanType.URI, 4: SanType.IP_ADDRESS}
_ACCEPT_UNTRUSTED = tls_common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED
# OpenSSL's names of the curves that it lets one choose.
_CURVES = {"P-256": "prime256v1", "P-384": "secp384r1", "P-521": "secp521r1"}


def upstream_tls(scope: Scope, context: Any) -> UpstreamTls:
    """Return an ``UpstreamTlsContext``; what of it cannot be honoured is in its ``refusal``."""
    before = len(scope.notes)
    scope.audit(context)
    if len(context.sni.encode()) > _LONGEST_SNI:
        scope.fault("sni", f"has more than {_LONGEST_SNI} bytes")
    common, place = context.common_tls_context, scope.at("common_tls_context")
    place.audit(common)
    validation, trust = _trust(place, common)
    minimum, maximum, ciphers, curve = _parameters(place.at("tls_params"), common.tls_params)
    certificate = _certificate(place, common)
    if trust is None and validation.fault():
        place.fault("validation_context", validation.fault())
    refused = [note for note in scope.notes[before:] if note.status is Status.REFUSED and note.consequence != _ASKED]
    return UpstreamTls(
        certificate=certificate,
        validation=validation,
        trust=trust,
        sni=context.sni,
        auto_host_sni=context.auto_host_sni,
        auto_sni_san_validation=context.auto_sni_san_validation,
        alpn=tuple(common.alpn_protocols),
        minimum=minimum,
        maximum=maximum,
        ciphers=ciphers,
        curve=curve,
        renegotiation=context.allow_renegotiation,
        resumption=not context.HasField("max_session_keys") or context.max_session_keys.value > 0,
        refusal=f"{refused[0].field_path}: {refused[0].consequence}" if refused else "",
    )


def secret(scope: Scope, message: Any) -> Secret:
    """Return a ``tls.v3.Secret``: a certificate, or whom to trust."""
    scope.audit(message)
    kind = message.WhichOneof("type")
    found: Secret = CertificateValidation()
    if kind == "tls_certificate":
        found = tls_certificate(scope.at(kind), message.tls_certificate)
    elif kind == "validation_context":
        found = certificate_validation(scope.at(kind), message.validation_context)
    else:
        scope.fault(kind or "", "is of no use here: expected tls_certificate or validation_context")
    for note in scope.notes:
        if note.status is Status.REFUSED:  # the last good one stays, rather than a part of this one
            scope.fault(note.field_path, note.consequence)
    return found


def tls_certificate(scope: Scope, message: Any) -> TlsCertificate:
    """Return a ``TlsCertificate``."""
    scope.audit(message)
    refused = message.HasField("pkcs12") or message.HasField("private_key_provider")  # as the notes on them say
    for field in ("certificate_chain", "private_key"):
        if not refused and not message.HasField(field):
            scope.fault(field, "is missing")
    password = _data(scope, "password", message.password) if message.HasField("password") else None
    chain = _data(scope, "certificate_chain", message.certificate_chain)
    return TlsCertificate(chain, _data(scope, "private_key", message.private_key), password)


def certificate_validation(scope: Scope, message: Any) -> CertificateValidation:
    """Return a ``CertificateValidationContext``."""
    scope.audit(message)
    sans = [
        _san(scope.at("match_typed_subject_alt_names", i), matcher)
        for i, matcher in enumerate(message.match_typed_subject_alt_names)
    ]
    untyped = [
        SanMatch(None, string_match(scope.at("match_subject_alt_names", i), matcher))
        for i, matcher in enumerate(message.match_subject_alt_names)
    ]
    return CertificateValidation(
        trusted_ca=_data(scope, "trusted_ca", message.trusted_ca) if message.HasField("trusted_ca") else None,
        system_roots=message.HasField("system_root_certs"),
        sans=tuple(sans or untyped),  # measured: where there are typed ones, Envoy does not look at the others
        spki=tuple(_pin(scope, "verify_certificate_spki", i, v) for i, v in enumerate(message.verify_certificate_spki)),
        hashes=tuple(
            _pin(scope, "verify_certificate_hash", i, v) for i, v in enumerate(message.verify_certificate_hash)
        ),
        accept_untrusted=choice(scope, message, "trust_chain_verification") == _ACCEPT_UNTRUSTED,
        allow_expired=message.allow_expired_certificate,
        crl=_data(scope, "crl", message.crl) if message.HasField("crl") else None,
        crl_for_leaf_only=message.only_verify_leaf_cert_crl,
    )


def _certificate(scope: Scope, common: Any) -> TlsCertificate | SecretRef | None:
    if len(common.tls_certificates) + len(common.tls_certificate_sds_secret_configs) > 1:
        scope.fault("tls_certificates", "there are several: a client shows one")
    for i, own in enumerate(common.tls_certificates):
        return tls_certificate(scope.at("tls_certificates", i), own)
    for i, config in enumerate(common.tls_certificate_sds_secret_configs):
        found = _secret_of(scope.at("tls_certificate_sds_secret_configs", i), config)
        if isinstance(found, CertificateValidation):
            scope.fault("tls_certificate_sds_secret_configs", f"{config.name!r} is no certificate")
            return None
        return found
    for field in ("tls_certificate_provider_instance", "tls_certificate_certificate_provider_instance"):
        if common.HasField(field):
            return _provider(scope.at(field), getattr(common, field))
    return None


def _trust(scope: Scope, common: Any) -> tuple[CertificateValidation, SecretRef | None]:
    """Return the validation context, and the one elsewhere that is to be merged over it."""
    kind = common.WhichOneof("validation_context_type")
    validation, source = CertificateValidation(), common
    if kind == "validation_context":
        place = scope.at(kind)
        validation = certificate_validation(place, common.validation_context)
        if common.validation_context.HasField("ca_certificate_provider_instance"):  # gRFC A29's new place
            field = "ca_certificate_provider_instance"
            return validation, _provider(place.at(field), common.validation_context.ca_certificate_provider_instance)
        return validation, None
    if kind == "combined_validation_context":
        scope, source = scope.at(kind), common.combined_validation_context
        scope.audit(source)
        place = scope.at("default_validation_context")
        default = source.default_validation_context
        validation = certificate_validation(place, default)
        if default.HasField("ca_certificate_provider_instance"):
            field = "ca_certificate_provider_instance"
            return validation, _provider(place.at(field), default.ca_certificate_provider_instance)
    if source.HasField("validation_context_sds_secret_config"):
        field = "validation_context_sds_secret_config"
        found = _secret_of(scope.at(field), source.validation_context_sds_secret_config)
        if isinstance(found, CertificateValidation):
            return validation.merged(found), None
        if isinstance(found, TlsCertificate):
            scope.fault(field, f"{source.validation_context_sds_secret_config.name!r} is no validation context")
            return validation, None
        return validation, found
    if source.HasField("validation_context_certificate_provider_instance"):
        field = "validation_context_certificate_provider_instance"
        return validation, _provider(scope.at(field), source.validation_context_certificate_provider_instance)
    return validation, None


def _secret_of(scope: Scope, config: Any) -> Secret | SecretRef:
    """Return what an ``SdsSecretConfig`` leads to."""
    scope.audit(config)
    name, source = config.name, config.sds_config
    if not name:
        scope.fault("name", "must not be empty")
    if not config.HasField("sds_config"):
        return SecretRef(name, "the bootstrap", static(name))
    scope.at("sds_config").audit(source)
    kind = source.WhichOneof("config_source_specifier")
    found = file_of(source)
    if found is not None:
        return SecretRef(name, f"the file {found[0]}", in_file(*found, name))
    if kind == "api_config_source":
        return _of_cluster(scope.at("sds_config").at(kind), name, source.api_config_source)
    if kind not in ("ads", "self"):
        scope.fault("sds_config", f"{kind or 'nothing'} is not supported")
    return SecretRef(name, "ADS", name)


def _of_cluster(scope: Scope, name: str, source: Any) -> Secret | SecretRef:
    scope.audit(source)
    for i, service in enumerate(source.grpc_services):
        place = scope.at("grpc_services", i)
        place.audit(service)
        place.at("envoy_grpc").audit(service.envoy_grpc)
    if name.startswith(_FILE_CERTIFICATE) and name.count("~") == 1:
        chain, _, key = name.removeprefix(_FILE_CERTIFICATE).partition("~")
        return TlsCertificate(DataSource(chain), DataSource(key))
    if name == _SYSTEM_ROOT:
        return CertificateValidation(system_roots=True)
    if name.startswith(_FILE_ROOT):
        return CertificateValidation(trusted_ca=DataSource(name.removeprefix(_FILE_ROOT)))
    scope.note("", _ASKED, Status.REFUSED)
    cluster = next((service.envoy_grpc.cluster_name for service in source.grpc_services), "")
    return SecretRef(name, f"the cluster {cluster!r}", by_cluster(cluster, name))


def _provider(scope: Scope, instance: Any) -> SecretRef:
    scope.audit(instance)
    return SecretRef(instance.instance_name, "the bootstrap's certificate_providers")


def _parameters(scope: Scope, params: Any) -> tuple[TlsVersion, TlsVersion, str, str]:
    scope.audit(params)
    low, high = (choice(scope, params, f"tls_{name}_protocol_version") for name in ("minimum", "maximum"))
    minimum = TlsVersion(low) if low else TlsVersion.TLS_1_2
    maximum = TlsVersion(high) if high else max(minimum, TlsVersion.TLS_1_2, key=lambda version: version.value)
    if maximum.value < minimum.value:
        scope.fault("tls_maximum_protocol_version", f"{maximum.name} is below the minimum, {minimum.name}")
    # BoringSSL's groups of equal preference are a list to OpenSSL.
    ciphers = ":".join(suite.strip("[]").replace("|", ":") for suite in params.cipher_suites)
    curve = ""
    if len(params.ecdh_curves) == 1 and params.ecdh_curves[0] in _CURVES:
        curve = _CURVES[params.ecdh_curves[0]]
    elif params.ecdh_curves:
        scope.note("ecdh_curves", f"Python's ssl takes one of {', '.join(_CURVES)}", Status.REFUSED)
    return minimum, maximum, ciphers, curve


def _san(scope: Scope, matcher: Any) -> SanMatch:
    scope.audit(matcher)
    kind = _SANS.get(choice(scope, matcher, "san_type"))
    if kind is None:
        if matcher.san_type == tls_common_pb2.SubjectAltNameMatcher.OTHER_NAME:
            scope.note("san_type", "OTHER_NAME is not looked at by Python's ssl", Status.REFUSED)
        else:
            scope.fault("san_type", "must say which type of name")
    match = string_match(scope.at("matcher"), matcher.matcher)
    if match.op is StringOp.EXACT and not match.value:
        scope.fault("matcher.exact", "must not be empty")
    return SanMatch(kind or SanType.URI, match)


def _pin(scope: Scope, field: str, index: int, value: str) -> bytes:
    try:
        if field == "verify_certificate_spki":
            found = base64.b64decode(value, validate=True)
        else:
            found = bytes.fromhex(value.replace(":", ""))
    except (ValueError, binascii.Error):
        found = b""
    if len(found) != 32:
        scope.fault(f"{field}[{index}]", "is no SHA-256")
    return found


def _data(scope: Scope, field: str, source: Any) -> DataSource:
    """Return a ``core.v3.DataSource``; the name of a file is enough, it may be there later."""
    place, kind = scope.at(field), source.WhichOneof("specifier")
    place.audit(source)
    if kind == "filename":
        if not source.filename:
            place.fault(kind, "must not be empty")
        return DataSource(source.filename)
    if kind == "inline_string":
        return DataSource(inline=source.inline_string.encode())
    if kind == "inline_bytes":
        return DataSource(inline=source.inline_bytes)
    if kind == "environment_variable":
        if source.environment_variable not in os.environ:
            place.fault(kind, f"{source.environment_variable!r} is not set")
        return DataSource(inline=os.environ.get(source.environment_variable, "").encode())
    return DataSource()
