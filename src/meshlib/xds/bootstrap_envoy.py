"""Envoy's bootstrap: static resources, and the server that ``ads_config`` names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from google.protobuf import descriptor_pool

from meshlib.errors import BootstrapError
from meshlib.model.cluster import Cluster
from meshlib.model.snapshot import Style
from meshlib.xds.bootstrap_parts import Bootstrap, Json, Server, check_address, expect, parse_message, unused
from meshlib.xds.protos import base_pb2, cluster_pb2, config_source_pb2, listener_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, LISTENER

_GRPC = config_source_pb2.ApiConfigSource.ApiType.Value("GRPC")


def parse_envoy(data: Json, origin: str) -> Bootstrap:
    """Return an Envoy bootstrap.

    With ``ads_config`` it is a sidecar's, whose static resources count too; without, everything
    is static, and listeners are found by their port.
    """
    data = _snake(data)
    notes = unused(data, "node static_resources dynamic_resources", origin)
    import_types(data)
    resources = _static(expect(data.get("static_resources", {}), Mapping, f"{origin}: static_resources"), origin)
    node = parse_message(data.get("node", {}), base_pb2.Node(), f"{origin}: node")
    dynamic = _snake(expect(data.get("dynamic_resources", {}), Mapping, f"{origin}: dynamic_resources"))
    if dynamic:
        return replace(_with_ads(dynamic, node, resources, origin), notes=notes)
    if not resources[LISTENER]:
        raise BootstrapError(
            f"{origin}: has neither static_resources.listeners nor dynamic_resources: nothing would be routed"
        )
    return Bootstrap((), node, Style.STATIC, resources, notes=notes)


def _with_ads(dynamic: Json, node: Any, resources: Mapping[str, Mapping[str, Any]], origin: str) -> Bootstrap:
    place = f"{origin}: dynamic_resources"
    unused(dynamic, "ads_config lds_config cds_config", place)
    if "ads_config" not in dynamic:
        raise BootstrapError(f"{place}: expected ads_config; other sources than ADS are not supported yet")
    if not node.id:
        raise BootstrapError(f"{origin}: node.id: expected the name of this client, which the server asks for")
    wildcards = set()
    for field, url in (("lds_config", LISTENER), ("cds_config", CLUSTER)):
        if field in dynamic:
            source = parse_message(dynamic[field], config_source_pb2.ConfigSource(), f"{place}.{field}")
            kind = source.WhichOneof("config_source_specifier")
            if kind != "ads":
                raise BootstrapError(f"{place}.{field}: {kind or 'nothing'} is not supported yet: expected ads")
            wildcards.add(url)
    server = _server(dynamic["ads_config"], resources[CLUSTER], f"{place}.ads_config")
    return Bootstrap((server,), node, Style.SIDECAR, resources, frozenset(wildcards))


def _server(data: object, clusters: Mapping[str, Any], origin: str) -> Server:
    config = parse_message(data, config_source_pb2.ApiConfigSource(), origin)
    if config.api_type != _GRPC:
        name = config_source_pb2.ApiConfigSource.ApiType.Name(config.api_type)
        raise BootstrapError(f"{origin}.api_type: {name} is not supported yet: expected GRPC")
    if not config.grpc_services:
        raise BootstrapError(f"{origin}.grpc_services: expected envoy_grpc or google_grpc")
    service, place = config.grpc_services[0], f"{origin}.grpc_services[0]"
    kind = service.WhichOneof("target_specifier")
    if kind == "google_grpc":
        if service.google_grpc.HasField("channel_credentials"):
            raise BootstrapError(f"{place}.google_grpc.channel_credentials: TLS is not supported yet: expected none")
        check_address(service.google_grpc.target_uri, f"{place}.google_grpc.target_uri")
        return Server(service.google_grpc.target_uri)
    name = service.envoy_grpc.cluster_name
    if name not in clusters:
        known = ", ".join(sorted(clusters)) or "none"
        raise BootstrapError(
            f"{place}.envoy_grpc.cluster_name: {name!r} is not among static_resources.clusters ({known})"
        )
    return Server(_address(name, clusters[name], f"{place}.envoy_grpc.cluster_name"))


def _address(name: str, message: Any, origin: str) -> str:
    """Return where a static cluster is; refuses one that wants TLS."""
    decoded = RESOURCE_TYPES[CLUSTER].decode(name, message)
    cluster = decoded.value
    if not isinstance(cluster, Cluster):
        raise BootstrapError(f"{origin}: {'; '.join(map(str, decoded.faults))}")
    if cluster.transport_socket is not None and cluster.transport_socket.secure:
        raise BootstrapError(f"{origin}: cluster {name!r} has a TLS transport_socket, which is not supported yet here")
    localities = cluster.assignment.localities if cluster.assignment is not None else ()
    for endpoint in (endpoint for locality in localities for endpoint in locality.endpoints):
        return str(endpoint) if endpoint.port else f"unix://{endpoint.address}"
    raise BootstrapError(f"{origin}: cluster {name!r} has no endpoint in its load_assignment")


def _static(data: Json, origin: str) -> dict[str, dict[str, Any]]:
    data = _snake(data)
    place = f"{origin}: static_resources"
    unused(data, "listeners clusters", place)
    found: dict[str, dict[str, Any]] = {LISTENER: {}, CLUSTER: {}}
    for field, url, kind in (
        ("listeners", LISTENER, listener_pb2.Listener),
        ("clusters", CLUSTER, cluster_pb2.Cluster),
    ):
        for i, item in enumerate(expect(data.get(field) or [], list, f"{place}.{field}")):
            message = parse_message(item, kind(), f"{place}.{field}[{i}]")
            if not message.name and url == LISTENER:  # Envoy makes up a name, too
                socket = message.address.socket_address
                message.name = f"{socket.address}_{socket.port_value}"
            if message.name in found[url]:
                raise BootstrapError(f"{place}.{field}[{i}].name: {message.name!r} is there twice")
            found[url][message.name] = message
    return found


def _snake(data: Json) -> Json:
    """Return a mapping with its own keys in snake_case; protobuf's JSON may use either."""
    return {"".join(f"_{c.lower()}" if c.isupper() else c for c in str(key)): value for key, value in data.items()}


def import_types(data: object) -> None:
    """Import the modules of every ``@type`` in ``data``, for protobuf finds only what is imported."""
    for url in _types(data):
        name = url.rpartition("/")[2]
        package = name.rpartition(".")[0]
        try:
            descriptor_pool.Default().FindMessageTypeByName(name)
            continue
        except KeyError:
            pass
        try:
            modules = importlib.import_module(package).__path__
        except (ImportError, AttributeError, ValueError):
            continue  # a type nobody here has: parsing says so, with its place
        for module in pkgutil.iter_modules(modules):
            if module.name.endswith("_pb2"):
                importlib.import_module(f"{package}.{module.name}")


def _types(data: object) -> Iterator[str]:
    if isinstance(data, Mapping):
        url = data.get("@type")
        if isinstance(url, str):
            yield url
        for value in data.values():
            yield from _types(value)
    elif isinstance(data, list):
        for value in data:
            yield from _types(value)
