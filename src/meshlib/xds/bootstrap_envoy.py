"""Envoy's bootstrap: static resources, files, and the servers that ``ads_config`` names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from meshlib.errors import BootstrapError
from meshlib.model.snapshot import Style
from meshlib.xds.bootstrap_envoy_servers import cluster_names, servers
from meshlib.xds.bootstrap_parts import Bootstrap, Json, PathSource, expect, parse_message, unused
from meshlib.xds.config_source import static as static_name
from meshlib.xds.documents import import_types
from meshlib.xds.protos import base_pb2, cluster_pb2, config_source_pb2, listener_pb2, secret_pb2
from meshlib.xds.type_urls import CLUSTER, LISTENER, SECRET

_log = logging.getLogger("meshlib.xds")
_V2 = (
    config_source_pb2.ConfigSource.DESCRIPTOR.fields_by_name["resource_api_version"]
    .enum_type.values_by_name["V2"]
    .number
)


def parse_envoy(data: Json, origin: str) -> Bootstrap:
    """Return an Envoy bootstrap.

    With ``ads_config`` it is a sidecar's, whose static resources and files count too; without,
    nobody is asked, and listeners are found by their port.
    """
    data = _snake(data)
    notes = unused(data, "node static_resources dynamic_resources cluster_manager", origin)
    import_types(data)
    static = _static(expect(data.get("static_resources", {}), Mapping, f"{origin}: static_resources"), origin)
    node = parse_message(data.get("node", {}), base_pb2.Node(), f"{origin}: node")
    dynamic = _snake(expect(data.get("dynamic_resources", {}), Mapping, f"{origin}: dynamic_resources"))
    place = f"{origin}: dynamic_resources"
    wildcards, files = _sources(dynamic, place)
    manager = _snake(expect(data.get("cluster_manager", {}), Mapping, f"{origin}: cluster_manager"))
    within = {f"cluster_manager.{key}": value for key, value in manager.items()}
    notes += unused(within, "cluster_manager.local_cluster_name", origin)
    local = str(manager.get("local_cluster_name", ""))
    if "ads_config" in dynamic:
        if not node.id:
            raise BootstrapError(f"{origin}: node.id: expected the name of this client, which the server asks for")
        asked = servers(dynamic["ads_config"], static[CLUSTER], f"{place}.ads_config")
        ads = cluster_names(dynamic["ads_config"], f"{place}.ads_config")
        return Bootstrap(
            asked,
            node,
            Style.SIDECAR,
            static,
            wildcards,
            files=files,
            ads_clusters=ads,
            notes=notes,
            local_cluster=local,
        )
    if wildcards:
        raise BootstrapError(f"{place}: expected ads_config, which lds_config or cds_config refers to by ads")
    if not static[LISTENER] and LISTENER not in files:
        raise BootstrapError(
            f"{origin}: has neither static_resources.listeners nor dynamic_resources.lds_config: "
            "nothing would be routed"
        )
    return Bootstrap((), node, Style.STATIC, static, files=files, notes=notes, local_cluster=local)


def _sources(dynamic: Json, place: str) -> tuple[frozenset[str], dict[str, PathSource]]:
    """Return the types that ADS gives whole, and those that are in a file."""
    for field in ("lds_resources_locator", "cds_resources_locator"):
        if field in dynamic:
            raise BootstrapError(f"{place}.{field}: is not supported: expected {field[:3]}_config")
    unused(dynamic, "ads_config lds_config cds_config", place)
    wildcards, files = set(), {}
    for field, url in (("lds_config", LISTENER), ("cds_config", CLUSTER)):
        if field not in dynamic:
            continue
        source = parse_message(dynamic[field], config_source_pb2.ConfigSource(), f"{place}.{field}")
        path = path_source(source, f"{place}.{field}")
        if path is not None:
            files[url] = path
        else:
            wildcards.add(url)
    return frozenset(wildcards), files


def path_source(source: Any, origin: str) -> PathSource | None:
    """Return the file a ``core.v3.ConfigSource`` names, None where it is ADS; raises for others."""
    if source.resource_api_version == _V2:
        raise BootstrapError(f"{origin}.resource_api_version: V2 is gone: expected V3")
    # Envoy goes on without a type whose timeout passed; we wait as long as the call does, as with 0s.
    if source.initial_fetch_timeout.ToNanoseconds():
        _log.warning("bootstrap=%s not honoured: initial_fetch_timeout", origin)
    kind = source.WhichOneof("config_source_specifier")
    if source.authorities:
        raise BootstrapError(f"{origin}.authorities: is not supported in an Envoy bootstrap")
    if kind == "ads":
        return None
    if kind == "path":
        return PathSource(source.path)
    if kind == "path_config_source":
        found = source.path_config_source
        if not found.path:
            raise BootstrapError(f"{origin}.path_config_source.path: must not be empty")
        return PathSource(found.path, found.watched_directory.path)
    raise BootstrapError(f"{origin}: {kind or 'nothing'} is not supported: expected ads or path_config_source")


def _static(data: Json, origin: str) -> dict[str, dict[str, Any]]:
    data = _snake(data)
    place = f"{origin}: static_resources"
    unused(data, "listeners clusters secrets", place)
    found: dict[str, dict[str, Any]] = {LISTENER: {}, CLUSTER: {}, SECRET: {}}
    for field, url, kind in (
        ("listeners", LISTENER, listener_pb2.Listener),
        ("clusters", CLUSTER, cluster_pb2.Cluster),
        ("secrets", SECRET, secret_pb2.Secret),
    ):
        for i, item in enumerate(expect(data.get(field) or [], list, f"{place}.{field}")):
            message = parse_message(item, kind(), f"{place}.{field}[{i}]")
            if not message.name and url == LISTENER:  # Envoy makes up a name, too
                socket = message.address.socket_address
                message.name = f"{socket.address}_{socket.port_value}"
            if url == SECRET:
                message.name = static_name(message.name)
            if message.name in found[url]:
                raise BootstrapError(f"{place}.{field}[{i}].name: {item['name']!r} is there twice")
            found[url][message.name] = message
    return found


def _snake(data: Json) -> Json:
    """Return a mapping with its own keys in snake_case; protobuf's JSON may use either."""
    return {"".join(f"_{c.lower()}" if c.isupper() else c for c in str(key)): value for key, value in data.items()}
