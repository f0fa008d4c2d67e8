"""gRPC's xDS bootstrap (gRFC A27; authorities A47, TLS A65, several servers A71, tokens A97)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from google.protobuf import duration_pb2

from meshlib.errors import BootstrapError
from meshlib.model.snapshot import Style
from meshlib.xds.bootstrap_parts import (
    FEATURES,
    Authority,
    Bootstrap,
    CertificateFiles,
    Json,
    Server,
    authority_of,
    check_address,
    expect,
    parse_message,
    unused,
)
from meshlib.xds.credentials import PLAINTEXT, Credentials, Pem, Tls, Token
from meshlib.xds.protos import base_pb2

_log = logging.getLogger("meshlib.xds")
_FILES = "certificate_file private_key_file ca_certificate_file refresh_interval"
_DEFAULT_TEMPLATE = "client_default_listener_resource_name_template"
_SERVER_TEMPLATE = "server_listener_resource_name_template"
_AUTHORITY_TEMPLATE = "client_listener_resource_name_template"


def parse_grpc(data: Json, origin: str) -> Bootstrap:
    """Return a gRPC bootstrap; listeners are named by a template and asked for on demand."""
    unused(
        data,
        f"xds_servers node authorities {_DEFAULT_TEMPLATE} {_SERVER_TEMPLATE} certificate_providers",
        origin,
    )
    servers = _servers(data["xds_servers"], f"{origin}: xds_servers")
    node = parse_message(data.get("node", {}), base_pb2.Node(), f"{origin}: node")
    authorities = expect(data.get("authorities", {}), Mapping, f"{origin}: authorities")
    found = {
        name: _authority(name, entry, servers, f"{origin}: authorities[{name!r}]")
        for name, entry in authorities.items()
    }
    return Bootstrap(
        servers,
        node,
        Style.GRPC,
        authorities=found,
        listener_template=_template(data, _DEFAULT_TEMPLATE, "%s", found, origin),
        server_listener_template=_template(data, _SERVER_TEMPLATE, "", found, origin),
        certificate_providers=_providers(data, origin),
    )


def _servers(data: object, origin: str) -> tuple[Server, ...]:
    servers = expect(data, list, origin)
    if not servers:
        raise BootstrapError(f"{origin}: expected at least one server")
    return tuple(_server(server, f"{origin}[{i}]") for i, server in enumerate(servers))


def _server(data: object, origin: str) -> Server:
    server = expect(data, Mapping, origin)
    unused(server, "server_uri channel_creds call_creds server_features", origin)
    address = expect(server.get("server_uri"), str, f"{origin}.server_uri")
    check_address(address, f"{origin}.server_uri")
    features = expect(server.get("server_features", []), list, f"{origin}.server_features")
    named = frozenset(expect(name, str, f"{origin}.server_features[{i}]") for i, name in enumerate(features))
    if unknown := ", ".join(sorted(named - FEATURES)):
        _log.warning("bootstrap=%s.server_features not honoured: %s", origin, unknown)
    token = _token(server, origin)
    return Server(address, _channel_creds(server, token, origin), features=named & FEATURES)


def _channel_creds(server: Json, token: Token | None, origin: str) -> Credentials:
    """Return the first credentials of a kind we have: "the client will stop at the first" (A27)."""
    creds = expect(server.get("channel_creds", []), list, f"{origin}.channel_creds")
    kinds = []
    for i, cred in enumerate(creds):
        place = f"{origin}.channel_creds[{i}]"
        kind = expect(cred, Mapping, place).get("type")
        if kind == "insecure":
            if token is not None:
                raise BootstrapError(f"{place}: insecure: the token of call_creds is never sent in plaintext")
            return PLAINTEXT
        if kind == "tls":
            return _tls(cred.get("config", {}), server["server_uri"], token, f"{place}.config")
        kinds.append(repr(kind))
    raise BootstrapError(
        f"{origin}.channel_creds: {', '.join(kinds) or 'none'} is not supported: expected type 'insecure' or 'tls'"
    )


def _tls(data: object, address: str, token: Token | None, origin: str) -> Tls:
    # A65 words the pairs otherwise, but every implementation reads them as A29's provider does.
    files = _files(data, origin)
    if address.startswith("unix:"):
        raise BootstrapError(f"{origin}: TLS to a unix socket: there is no name that its certificate could be for")
    return Tls(
        root_ca=Pem(files.ca_certificate_file) if files.ca_certificate_file else None,
        certificate=Pem(files.certificate_file) if files.certificate_file else None,
        private_key=Pem(files.private_key_file) if files.private_key_file else None,
        token=token,
    )


def _token(server: Json, origin: str) -> Token | None:
    """Return the token of ``call_creds`` (A97), None for none."""
    found: list[Token] = []
    for i, cred in enumerate(expect(server.get("call_creds", []), list, f"{origin}.call_creds")):
        place = f"{origin}.call_creds[{i}]"
        if (kind := expect(cred, Mapping, place).get("type")) != "jwt_token_file":
            _log.warning("bootstrap=%s not honoured: type %r", place, kind)
            continue
        config = expect(cred.get("config", {}), Mapping, f"{place}.config")
        found.append(Token(expect(config.get("jwt_token_file"), str, f"{place}.config.jwt_token_file")))
    if len(found) > 1:
        raise BootstrapError(f"{origin}.call_creds: expected one token, not {len(found)}")
    return found[0] if found else None


def _files(data: object, origin: str) -> CertificateFiles:
    config = expect(data, Mapping, origin)
    if "spiffe_trust_bundle_map_file" in config:
        raise BootstrapError(f"{origin}.spiffe_trust_bundle_map_file: is not supported: expected ca_certificate_file")
    unused(config, _FILES, origin)
    paths = {
        name: expect(config.get(name, ""), str, f"{origin}.{name}") for name in _FILES.split() if name.endswith("_file")
    }
    if bool(paths["certificate_file"]) != bool(paths["private_key_file"]):
        raise BootstrapError(f"{origin}: expected both certificate_file and private_key_file, or neither")
    return CertificateFiles(**paths, refresh_interval=_seconds(config.get("refresh_interval"), origin))


def _seconds(data: object, origin: str) -> float:
    if data is None:
        return CertificateFiles().refresh_interval
    duration = duration_pb2.Duration()
    try:
        duration.FromJsonString(expect(data, str, f"{origin}.refresh_interval"))
        seconds: float = duration.ToTimedelta().total_seconds()
    except (ValueError, OverflowError) as error:
        raise BootstrapError(f'{origin}.refresh_interval: expected a duration like "600s", not {data!r:.80}') from error
    if seconds <= 0:
        raise BootstrapError(f"{origin}.refresh_interval: expected more than 0s, not {data!r:.80}")
    return seconds


def _authority(name: str, data: object, servers: tuple[Server, ...], origin: str) -> Authority:
    entry = expect(data, Mapping, origin)
    unused(entry, f"xds_servers {_AUTHORITY_TEMPLATE}", origin)
    default = f"xdstp://{name}/envoy.config.listener.v3.Listener/%s"
    template = expect(entry.get(_AUTHORITY_TEMPLATE) or default, str, f"{origin}.{_AUTHORITY_TEMPLATE}")
    if not template.startswith(f"xdstp://{name}/"):
        raise BootstrapError(f"{origin}.{_AUTHORITY_TEMPLATE}: {template!r} must start with 'xdstp://{name}/'")
    own = _servers(entry["xds_servers"], f"{origin}.xds_servers") if entry.get("xds_servers") else servers
    return Authority(own, template)


def _template(data: Json, field: str, default: str, authorities: Mapping[str, Authority], origin: str) -> str:
    template: str = expect(data.get(field) or default, str, f"{origin}: {field}")
    authority = authority_of(template)
    if authority is not None and authority not in authorities:
        known = ", ".join(map(repr, sorted(authorities))) or "none"
        raise BootstrapError(f"{origin}: {field}: authority {authority!r} is not among authorities ({known})")
    return template


def _providers(data: Json, origin: str) -> dict[str, CertificateFiles]:
    found = {}
    for name, entry in expect(
        data.get("certificate_providers", {}), Mapping, f"{origin}: certificate_providers"
    ).items():
        place = f"{origin}: certificate_providers[{name!r}]"
        kind = expect(entry, Mapping, place).get("plugin_name")
        if kind != "file_watcher":
            _log.warning("bootstrap=%s not honoured: plugin_name %r", place, kind)
            continue
        files = _files(entry.get("config", {}), f"{place}.config")
        if not files.certificate_file and not files.ca_certificate_file:
            raise BootstrapError(f"{place}.config: expected certificate_file or ca_certificate_file")
        found[name] = files
    return found
