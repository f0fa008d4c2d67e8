"""gRPC's xDS bootstrap (gRFC A27)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from meshlib.errors import BootstrapError
from meshlib.model.snapshot import Style
from meshlib.xds.bootstrap_parts import Bootstrap, Json, Server, check_address, expect, parse_message, unused
from meshlib.xds.protos import base_pb2

_log = logging.getLogger("meshlib.xds")


def parse_grpc(data: Json, origin: str) -> Bootstrap:
    """Return a gRPC bootstrap; listeners are named ``host:port`` and asked for on demand."""
    unused(data, "xds_servers node", origin)
    servers = expect(data["xds_servers"], list, f"{origin}: xds_servers")
    if not servers:
        raise BootstrapError(f"{origin}: xds_servers: expected at least one server")
    node = parse_message(data.get("node", {}), base_pb2.Node(), f"{origin}: node")
    found = tuple(_server(server, f"{origin}: xds_servers[{i}]") for i, server in enumerate(servers))
    if len(found) > 1:
        _log.warning("bootstrap=%s not honoured: xds_servers after the first", origin)
    return Bootstrap(found[:1], node, Style.GRPC)


def _server(data: object, origin: str) -> Server:
    server = expect(data, Mapping, origin)
    unused(server, "server_uri channel_creds server_features", origin)
    address = expect(server.get("server_uri"), str, f"{origin}.server_uri")
    check_address(address, f"{origin}.server_uri")
    creds = expect(server.get("channel_creds", []), list, f"{origin}.channel_creds")
    kinds = [expect(cred, Mapping, f"{origin}.channel_creds[{i}]").get("type") for i, cred in enumerate(creds)]
    # "The client will stop at the first credential type it supports."
    if "insecure" not in kinds:
        named = ", ".join(map(repr, kinds)) or "none"
        raise BootstrapError(f"{origin}.channel_creds: {named} is not supported yet: expected type 'insecure'")
    return Server(address)
