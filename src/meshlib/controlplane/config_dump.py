"""xDS resources as Envoy's config dump, and back: what ``istioctl proxy-config -f`` and Envoy's admin port speak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message

from meshlib.controlplane.istio_messages import TYPES
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE, Resources
from meshlib.errors import ConfigError

_ADMIN = "type.googleapis.com/envoy.admin.v3."
_MESSAGES: Mapping[str, type[Message]] = {
    LISTENER: listener_pb2.Listener,
    ROUTE: route_pb2.RouteConfiguration,
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINT: endpoint_pb2.ClusterLoadAssignment,
}

# What is asked for by these names, in the order of a push.
SHORT = {"clusters": CLUSTER, "endpoints": ENDPOINT, "listeners": LISTENER, "routes": ROUTE, "names": NAME_TABLE}


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as protobuf's JSON with Envoy's field names, what is in an ``Any`` written out.

    An ``Any`` of a type that is not installed is its type and its size.
    """
    try:
        return _as_dict(message)
    except TypeError:  # an Any whose type nobody knows
        copy = type(message)()
        copy.CopyFrom(message)
        return _as_dict(_without_unknown(copy))


def _as_dict(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=TYPES)
    return found


def _without_unknown(message: Message) -> Message:
    """Put a Struct that says so in the place of every ``Any`` of unknown type."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            values = value.values() if field.message_type.fields_by_name["value"].message_type else ()
        else:
            values = (value,) if isinstance(value, Message) else value
        for item in values:
            if item.DESCRIPTOR.full_name == "google.protobuf.Any":
                _known_any(item)
            else:
                _without_unknown(item)
    return message


def _known_any(packed: Any) -> None:
    try:
        TYPES.FindMessageTypeByName(packed.type_url.rpartition("/")[2])
    except KeyError:
        told = struct_pb2.Struct()
        told.update({"unknown_type": packed.type_url, "bytes": len(packed.value)})
        packed.Pack(told)


def listed(resources: Resources) -> dict[str, list[dict[str, Any]]]:
    """Return every resource as plain data: ``clusters``, ``endpoints``, ``listeners``, ``routes``, ``names``."""
    return {name: [as_dict(item) for item in resources.by_type[url].values()] for name, url in SHORT.items()}


def dump(resources: Resources, node_id: str, version: str = "") -> dict[str, Any]:
    """Return an ``envoy.admin.v3.ConfigDump`` as plain data."""

    def packed(url: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, message in resources.by_type[url].items():
            yield name, {"@type": url, **as_dict(message)}

    said = {"version_info": version} if version else {}
    bootstrap = {"@type": f"{_ADMIN}BootstrapConfigDump", "bootstrap": {"node": {"id": node_id}}}
    clusters = [{**said, "cluster": item} for _, item in packed(CLUSTER)]
    endpoints = [{**said, "endpoint_config": item} for _, item in packed(ENDPOINT)]
    listeners = [{"name": name, "active_state": {**said, "listener": item}} for name, item in packed(LISTENER)]
    routes = [{**said, "route_config": item} for _, item in packed(ROUTE)]
    return {
        "configs": [
            bootstrap,
            {"@type": f"{_ADMIN}ClustersConfigDump", "dynamic_active_clusters": clusters},
            {"@type": f"{_ADMIN}EndpointsConfigDump", "dynamic_endpoint_configs": endpoints},
            {"@type": f"{_ADMIN}ListenersConfigDump", "dynamic_listeners": listeners},
            {"@type": f"{_ADMIN}RoutesConfigDump", "dynamic_route_configs": routes},
            {"@type": f"{_ADMIN}SecretsConfigDump"},  # which `istioctl proxy-config all` demands
        ]
    }


# Section -> (list, the way to the resource in an item of it).
_SECTIONS: Mapping[str, tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    "ClustersConfigDump": (
        CLUSTER,
        (("dynamic_active_clusters", ("cluster",)), ("static_clusters", ("cluster",))),
    ),
    "EndpointsConfigDump": (
        ENDPOINT,
        (("dynamic_endpoint_configs", ("endpoint_config",)), ("static_endpoint_configs", ("endpoint_config",))),
    ),
    "ListenersConfigDump": (
        LISTENER,
        (("dynamic_listeners", ("active_state", "listener")), ("static_listeners", ("listener",))),
    ),
    "RoutesConfigDump": (
        ROUTE,
        (("dynamic_route_configs", ("route_config",)), ("static_route_configs", ("route_config",))),
    ),
}


def undump(document: Any) -> Resources:
    """Return the resources of a config dump, in Envoy's field names or protobuf's camelCase.

    Raises:
        ConfigError: it is none.
    """
    configs = document.get("configs") if isinstance(document, dict) else None
    if not isinstance(configs, list):
        raise ConfigError("no config dump: expected an object with a list `configs`, as Envoy's /config_dump answers")
    found: dict[str, list[Message]] = {url: [] for url in _MESSAGES}
    for section in configs:
        name = str(section.get("@type", "")).rpartition(".")[2] if isinstance(section, dict) else ""
        if name in _SECTIONS:
            url, lists = _SECTIONS[name]
            for key, way in lists:
                for item in _get(section, key) or ():
                    resource = _follow(item, way)
                    if resource is not None:
                        found[url].append(_parse(url, resource))
    return Resources.build(
        listeners=found[LISTENER], routes=found[ROUTE], clusters=found[CLUSTER], endpoints=found[ENDPOINT]
    )


def unpack(by_type: Mapping[str, Mapping[str, Any]]) -> Resources:
    """Return the resources that came as ``Any``s, by type URL and name."""

    def messages(url: str) -> Iterator[Message]:
        for packed in by_type.get(url, {}).values():
            message = _MESSAGES[url]()
            message.ParseFromString(packed.value)
            yield message

    return Resources.build(
        listeners=messages(LISTENER), routes=messages(ROUTE), clusters=messages(CLUSTER), endpoints=messages(ENDPOINT)
    )


def _follow(item: Any, way: tuple[str, ...]) -> Any:
    for key in way:
        item = _get(item, key)
    return item if isinstance(item, dict) else None


def _get(section: Any, key: str) -> Any:
    if not isinstance(section, dict):
        return None
    head, *rest = key.split("_")
    return section.get(key, section.get(head + "".join(map(str.capitalize, rest))))


def _parse(url: str, resource: dict[str, Any]) -> Message:
    content = {key: _known(value) for key, value in resource.items() if key != "@type"}
    try:
        return json_format.ParseDict(content, _MESSAGES[url](), ignore_unknown_fields=True, descriptor_pool=TYPES)
    except json_format.ParseError as error:
        name = resource.get("name") or resource.get("cluster_name") or resource.get("clusterName") or "without a name"
        raise ConfigError(f"{url.rpartition('.')[2]} {name} of the dump cannot be read: {error}") from error


def _known(value: Any) -> Any:
    """Return ``value`` with a Struct in the place of every ``Any`` of a type that is not installed."""
    if isinstance(value, list):
        return [_known(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: _known(item) for key, item in value.items()}
    if "@type" in value:
        try:
            TYPES.FindMessageTypeByName(str(value["@type"]).rpartition("/")[2])
        except KeyError:
            return {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"unknown_type": value["@type"]}}
    return made
