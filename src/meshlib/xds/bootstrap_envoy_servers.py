"""The servers of Envoy's ``ads_config``: ``envoy_grpc`` and ``google_grpc``, with their credentials.

Security settings that gRPC for Python cannot honour are refused: it checks that the server's
certificate is signed by a CA given, and is for one name, which is also the SNI.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from meshlib.errors import BootstrapError
from meshlib.model.cluster import Cluster
from meshlib.xds.bootstrap_parts import Server, check_address, parse_message
from meshlib.xds.credentials import PLAINTEXT, Credentials, Local, Pem, Tls, Token
from meshlib.xds.protos import config_source_pb2, file_based_metadata_pb2, tls_common_pb2, tls_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER

_log = logging.getLogger("meshlib.xds")
_API_TYPES = config_source_pb2.ApiConfigSource.ApiType
_DELTA = {_API_TYPES.Value("GRPC"): False, _API_TYPES.Value("DELTA_GRPC"): True}
_FILE_BASED = "envoy.grpc_credentials.file_based_metadata"
_PARAMETERS = tls_common_pb2.TlsParameters
_SAN_TYPES = tls_common_pb2.SubjectAltNameMatcher.SanType


def servers(data: object, clusters: Mapping[str, Any], origin: str) -> tuple[Server, ...]:
    """Return the servers of an ``ApiConfigSource``, in order.

    Args:
        data: the message as plain JSON.
        clusters: the static clusters by name.
        origin: where it stands, for errors.
    """
    config = parse_message(data, config_source_pb2.ApiConfigSource(), origin)
    if config.api_type not in _DELTA:
        name = _API_TYPES.Name(config.api_type)
        raise BootstrapError(f"{origin}.api_type: {name} is not supported: expected GRPC or DELTA_GRPC")
    if not config.grpc_services:
        raise BootstrapError(f"{origin}.grpc_services: expected envoy_grpc or google_grpc")
    _unused(config, "api_type transport_api_version grpc_services set_node_on_first_message_only", origin)
    return tuple(
        replace(server, delta=_DELTA[config.api_type])
        for i, service in enumerate(config.grpc_services)
        for server in _service(service, clusters, f"{origin}.grpc_services[{i}]")
    )


def cluster_names(data: object, origin: str) -> frozenset[str]:
    """Return the clusters an ``ApiConfigSource`` goes to."""
    config = parse_message(data, config_source_pb2.ApiConfigSource(), origin)
    return frozenset(s.envoy_grpc.cluster_name for s in config.grpc_services if s.envoy_grpc.cluster_name)


def _service(service: Any, clusters: Mapping[str, Any], origin: str) -> Iterable[Server]:
    _unused(service, "envoy_grpc google_grpc initial_metadata", origin)
    metadata = tuple(
        _header(header, f"{origin}.initial_metadata[{i}]") for i, header in enumerate(service.initial_metadata)
    )
    if service.WhichOneof("target_specifier") == "google_grpc":
        google, place = service.google_grpc, f"{origin}.google_grpc"
        check_address(google.target_uri, f"{place}.target_uri")
        return (Server(google.target_uri, _google(google, place), metadata=metadata),)
    _unused(service.envoy_grpc, "cluster_name", f"{origin}.envoy_grpc")
    name, place = service.envoy_grpc.cluster_name, f"{origin}.envoy_grpc.cluster_name"
    if name not in clusters:
        known = ", ".join(sorted(clusters)) or "none"
        raise BootstrapError(f"{place}: {name!r} is not among static_resources.clusters ({known})")
    credentials = _of_cluster(name, clusters[name], place)
    return [Server(address, credentials, metadata=metadata) for address in _addresses(name, clusters[name], place)]


def _header(header: Any, origin: str) -> tuple[str, str]:
    key, value = header.key.lower(), header.value or header.raw_value.decode("latin-1")
    if not key or key.startswith((":", "grpc-")) or key.endswith("-bin"):
        raise BootstrapError(f"{origin}.key: {header.key!r} cannot be sent as metadata of gRPC")
    if "%" in value or not value.isascii() or not value.isprintable():
        raise BootstrapError(f"{origin}.value: expected plain text: %COMMANDS% and bytes are not supported")
    return key, value


def _addresses(name: str, message: Any, origin: str) -> list[str]:
    """Return where a static cluster is."""
    decoded = RESOURCE_TYPES[CLUSTER].decode(name, message)
    cluster = decoded.value
    if not isinstance(cluster, Cluster):
        raise BootstrapError(f"{origin}: {'; '.join(map(str, decoded.faults))}")
    localities = cluster.assignment.localities if cluster.assignment is not None else ()
    found = [
        str(endpoint) if endpoint.port else f"unix://{endpoint.address}"
        for locality in localities
        for endpoint in locality.endpoints
    ]
    if not found:
        raise BootstrapError(f"{origin}: cluster {name!r} has no endpoint in its load_assignment")
    return found


def _of_cluster(name: str, message: Any, origin: str) -> Credentials:
    place = f"{origin}: cluster {name!r}: transport_socket"
    if message.transport_socket_matches:
        raise BootstrapError(f"{place}_matches: is not supported here: expected transport_socket")
    socket = message.transport_socket
    kind = socket.typed_config.type_url.rpartition("/")[2]
    if not message.HasField("transport_socket") or kind.endswith(".raw_buffer.v3.RawBuffer"):
        return PLAINTEXT
    context = tls_pb2.UpstreamTlsContext()
    if not socket.typed_config.Unpack(context):
        raise BootstrapError(f"{place}: {kind or socket.name} is not supported here: expected UpstreamTlsContext")
    return _upstream_tls(context, place)


def _upstream_tls(context: Any, origin: str) -> Tls:
    _only(context, "common_tls_context sni max_session_keys", origin)
    common, place = context.common_tls_context, f"{origin}.common_tls_context"
    _only(common, "tls_params tls_certificates validation_context alpn_protocols", place)
    if list(common.alpn_protocols) not in ([], ["h2"]):
        raise BootstrapError(f"{place}.alpn_protocols: gRPC speaks h2 alone, not {list(common.alpn_protocols)}")
    _parameters(common.tls_params, f"{place}.tls_params")
    if len(common.tls_certificates) > 1:
        raise BootstrapError(f"{place}.tls_certificates: expected one")
    certificate = key = None
    for own in common.tls_certificates:
        _only(own, "certificate_chain private_key watched_directory", f"{place}.tls_certificates[0]")
        certificate = _pem(own.certificate_chain, f"{place}.tls_certificates[0].certificate_chain")
        key = _pem(own.private_key, f"{place}.tls_certificates[0].private_key")
    validation, place = common.validation_context, f"{place}.validation_context"
    _only(
        validation,
        "trusted_ca system_root_certs watched_directory match_typed_subject_alt_names match_subject_alt_names",
        place,
    )
    if not validation.HasField("trusted_ca") and not validation.HasField("system_root_certs"):
        raise BootstrapError(f"{place}: expected trusted_ca or system_root_certs: any server would be believed")
    root = _pem(validation.trusted_ca, f"{place}.trusted_ca") if validation.HasField("trusted_ca") else None
    return Tls(root, certificate, key, _checked_name(context.sni, validation, place))


def _checked_name(sni: str, validation: Any, origin: str) -> str:
    """Return the one name that the certificate is checked for: the SNI, or the SAN it must have."""
    names = []
    for i, matcher in enumerate(validation.match_typed_subject_alt_names):
        place = f"{origin}.match_typed_subject_alt_names[{i}]"
        if matcher.san_type not in (_SAN_TYPES.Value("DNS"), _SAN_TYPES.Value("IP_ADDRESS")):
            raise BootstrapError(f"{place}.san_type: gRPC checks DNS names and IP addresses alone")
        names.append(_exact(matcher.matcher, f"{place}.matcher"))
    for i, matcher in enumerate(validation.match_subject_alt_names):
        names.append(_exact(matcher, f"{origin}.match_subject_alt_names[{i}]"))
    if any("://" in name for name in names):
        raise BootstrapError(f"{origin}: gRPC checks DNS names and IP addresses alone, not {', '.join(names)}")
    if not names or sni in names:
        return sni
    if not sni and len(names) == 1:
        return str(names[0])
    raise BootstrapError(
        f"{origin}: gRPC checks the certificate for one name, which is the SNI: "
        f"{sni or 'no sni'} is not among {', '.join(names)}"
    )


def _exact(matcher: Any, origin: str) -> str:
    if matcher.WhichOneof("match_pattern") != "exact" or matcher.ignore_case:
        raise BootstrapError(f"{origin}: gRPC cannot check patterns: expected exact")
    found: str = matcher.exact
    return found


def _parameters(parameters: Any, origin: str) -> None:
    """Refuse TLS versions and ciphers other than gRPC's own, TLS 1.2 and 1.3."""
    _only(parameters, "tls_minimum_protocol_version tls_maximum_protocol_version", origin)
    lowest, highest = parameters.tls_minimum_protocol_version, parameters.tls_maximum_protocol_version
    if lowest not in (_PARAMETERS.TLS_AUTO, _PARAMETERS.TLSv1_2):
        raise BootstrapError(f"{origin}.tls_minimum_protocol_version: gRPC speaks TLS 1.2 and 1.3: expected TLSv1_2")
    if highest not in (_PARAMETERS.TLS_AUTO, _PARAMETERS.TLSv1_3):
        raise BootstrapError(f"{origin}.tls_maximum_protocol_version: gRPC speaks TLS 1.2 and 1.3: expected TLSv1_3")


def _google(google: Any, origin: str) -> Credentials:
    _unused(
        google,
        "target_uri channel_credentials call_credentials stat_prefix credentials_factory_name "
        "channel_credentials_plugin call_credentials_plugin",
        origin,
    )
    for field in ("channel_credentials_plugin", "call_credentials_plugin"):
        if len(getattr(google, field)):
            raise BootstrapError(f"{origin}.{field}: is not supported: expected {field.removesuffix('_plugin')}")
    if google.credentials_factory_name not in ("", "envoy.grpc_credentials.default", _FILE_BASED):
        raise BootstrapError(f"{origin}.credentials_factory_name: {google.credentials_factory_name} is not supported")
    token = _call_credentials(google.call_credentials, f"{origin}.call_credentials")
    channel, place = google.channel_credentials, f"{origin}.channel_credentials"
    kind = channel.WhichOneof("credential_specifier")
    if kind == "ssl_credentials":
        ssl = channel.ssl_credentials
        if ssl.HasField("cert_chain") != ssl.HasField("private_key"):
            raise BootstrapError(f"{place}.ssl_credentials: expected both cert_chain and private_key, or neither")
        return Tls(
            _pem(ssl.root_certs, f"{place}.ssl_credentials.root_certs") if ssl.HasField("root_certs") else None,
            _pem(ssl.cert_chain, f"{place}.ssl_credentials.cert_chain") if ssl.HasField("cert_chain") else None,
            _pem(ssl.private_key, f"{place}.ssl_credentials.private_key") if ssl.HasField("private_key") else None,
            token=token,
        )
    if kind == "local_credentials":
        return Local(token)
    if kind is not None:
        raise BootstrapError(f"{place}: {kind} is not supported: expected ssl_credentials or local_credentials")
    if token is not None:
        raise BootstrapError(f"{origin}.call_credentials: a token is never sent in plaintext: give ssl_credentials")
    return PLAINTEXT


def _call_credentials(credentials: Any, origin: str) -> Token | None:
    if len(credentials) > 1:
        raise BootstrapError(f"{origin}: expected one")
    for found in credentials:
        kind = found.WhichOneof("credential_specifier")
        if kind == "access_token":
            return Token(inline=found.access_token)
        if kind == "from_plugin" and found.from_plugin.name == _FILE_BASED:
            config = file_based_metadata_pb2.FileBasedMetadataConfig()
            if found.from_plugin.typed_config.Unpack(config):
                place = f"{origin}[0].from_plugin.typed_config.secret_data"
                header = config.header_key.lower() or "authorization"
                if config.secret_data.filename:
                    return Token(config.secret_data.filename, header=header, prefix=config.header_prefix)
                inline = _pem(config.secret_data, place).inline.decode("latin-1")
                return Token(inline=inline, header=header, prefix=config.header_prefix)
        name = found.from_plugin.name if kind == "from_plugin" else kind
        raise BootstrapError(f"{origin}[0]: {name} is not supported: expected access_token or {_FILE_BASED}")
    return None


def _pem(source: Any, origin: str) -> Pem:
    """Return a ``core.v3.DataSource``."""
    kind = source.WhichOneof("specifier")
    if kind == "filename" and source.filename:
        return Pem(source.filename)
    if kind == "environment_variable":
        if source.environment_variable not in os.environ:
            raise BootstrapError(f"{origin}.environment_variable: {source.environment_variable} is not set")
        return Pem(inline=os.environ[source.environment_variable].encode())
    inline = source.inline_bytes if kind == "inline_bytes" else source.inline_string.encode()
    if not inline:
        raise BootstrapError(f"{origin}: expected filename, inline_string, inline_bytes or environment_variable")
    return Pem(inline=inline)


def _only(message: Any, known: str, origin: str) -> None:
    """Raise for a set field that is not honoured: all of them are about security."""
    if rest := sorted({field.name for field, _ in message.ListFields()} - set(known.split())):
        raise BootstrapError(f"{origin}.{rest[0]}: cannot be honoured on a connection to a management server")


def _unused(message: Any, known: str, origin: str) -> None:
    """Warn once of set fields that are not honoured."""
    if rest := sorted({field.name for field, _ in message.ListFields()} - set(known.split())):
        _log.warning("bootstrap=%s not honoured: %s", origin, ", ".join(rest))
