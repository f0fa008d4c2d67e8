"""Responses read as far as they must be: what repeats in them stays bytes.

protobuf makes a Python object of every message that is touched, which for ten thousand resources
costs more than all the rest. A field of messages and a field of bytes are one on the wire
(wire type 2), so the messages here declare what Envoy declares as messages to be bytes: a
resource that is known already is recognised by its bytes and never parsed again.

Others are views of Envoy's messages to find their shape by (:mod:`~meshlib.xds.shapes`): they
declare the fields that differ between resources that are otherwise alike. protobuf keeps what a
view does not declare as it came, and a view written again has it.

The descriptors live in a pool of their own and cannot meet Envoy's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_ONE, _MANY = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
_STRING, _BYTES, _DOUBLE = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_DOUBLE
_ENUM = _Field.TYPE_INT32

# Field numbers are those of Envoy's messages of these names; what is not named here is kept as
# unknown fields. A type that is a string is a message of this table.
_MESSAGES: Mapping[str, tuple[tuple[str, int, int, int | str], ...]] = {
    "DiscoveryResponse": (
        ("version_info", 1, _ONE, _STRING),
        ("resources", 2, _MANY, _BYTES),  # google.protobuf.Any
        ("type_url", 4, _ONE, _STRING),
        ("nonce", 5, _ONE, _STRING),
    ),
    "DeltaDiscoveryResponse": (
        ("system_version_info", 1, _ONE, _STRING),
        ("resources", 2, _MANY, _BYTES),  # envoy.service.discovery.v3.Resource
        ("type_url", 4, _ONE, _STRING),
        ("nonce", 5, _ONE, _STRING),
        ("removed_resources", 6, _MANY, _STRING),
    ),
    "Resource": (
        ("version", 1, _ONE, _STRING),
        ("resource", 2, _ONE, _BYTES),  # google.protobuf.Any
        ("name", 3, _ONE, _STRING),
        ("ttl", 6, _ONE, _BYTES),  # google.protobuf.Duration
    ),
    "RouteConfiguration": (("virtual_hosts", 2, _MANY, _BYTES),),  # envoy.config.route.v3.VirtualHost
    "Cluster": (
        ("name", 1, _ONE, _STRING),
        ("eds_cluster_config", 3, _ONE, "EdsClusterConfig"),
        ("transport_socket", 24, _ONE, "TransportSocket"),
        ("metadata", 25, _ONE, "Metadata"),
        ("alt_stat_name", 28, _ONE, _STRING),
        ("transport_socket_matches", 43, _MANY, "TransportSocketMatch"),
    ),
    "EdsClusterConfig": (("service_name", 2, _ONE, _STRING),),
    "TransportSocketMatch": (("transport_socket", 3, _ONE, "TransportSocket"),),
    "TransportSocket": (("typed_config", 3, _ONE, "Any"),),
    "ClusterLoadAssignment": (("endpoints", 2, _MANY, "LocalityLbEndpoints"),),
    "LocalityLbEndpoints": (("lb_endpoints", 2, _MANY, _BYTES),),
    # Where a field that Envoy repeats is declared once, protobuf merges what comes: the fields of all
    # endpoints of a locality become lists in one message, with no object made for each endpoint.
    "MergedLoadAssignment": (("cluster_name", 1, _ONE, _STRING), ("endpoints", 2, _MANY, "MergedLocality")),
    "MergedLocality": (("lb_endpoints", 2, _ONE, "MergedLbEndpoint"),),
    "MergedLbEndpoint": (
        ("endpoint", 1, _MANY, _BYTES),
        ("health_status", 2, _MANY, _ENUM),
        ("metadata", 3, _ONE, "Metadata"),
        ("load_balancing_weight", 4, _MANY, _BYTES),
    ),
    # Metadata is opaque, but it must be metadata: declared is what can be wrong in it.
    "Metadata": (
        ("filter_metadata", 1, _ONE, "FilterMetadataEntry"),
        ("typed_filter_metadata", 2, _ONE, "TypedFilterMetadataEntry"),
    ),
    "FilterMetadataEntry": (("key", 1, _MANY, _STRING), ("value", 2, _ONE, "Struct")),
    "TypedFilterMetadataEntry": (("key", 1, _MANY, _STRING), ("value", 2, _ONE, "Any")),
    "Any": (("type_url", 1, _ONE, _STRING), ("value", 2, _ONE, _BYTES)),
    "Struct": (("fields", 1, _ONE, "FieldsEntry"),),
    "FieldsEntry": (("key", 1, _MANY, _STRING), ("value", 2, _ONE, "Value")),
    "Value": (
        ("string_value", 3, _MANY, _STRING),
        ("struct_value", 5, _ONE, "Struct"),
        ("list_value", 6, _ONE, "ListValue"),
    ),
    "ListValue": (("values", 1, _ONE, "Value"),),
    # These are ours: the last-known-good file.
    "Saved": (
        ("node", 1, _ONE, _STRING),
        ("at", 2, _ONE, _DOUBLE),
        ("types", 3, _MANY, _BYTES),  # SavedType
    ),
    "SavedType": (
        ("type_url", 1, _ONE, _STRING),
        ("resources", 2, _MANY, _BYTES),  # SavedResource
    ),
    "SavedResource": (
        ("name", 1, _ONE, _STRING),
        ("version", 2, _ONE, _STRING),
        ("at", 3, _ONE, _DOUBLE),
        ("resource", 4, _ONE, _BYTES),  # google.protobuf.Any
    ),
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="meshlib/xds/wire.proto", package="meshlib.xds", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, label, kind in fields:
            if isinstance(kind, str):
                nested = f".meshlib.xds.{kind}"
                message.field.add(name=field, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=nested)
            else:
                message.field.add(name=field, number=number, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"meshlib.xds.{name}")) for name in _MESSAGES
    }


_CLASSES = _classes()
DiscoveryResponse: Any = _CLASSES["DiscoveryResponse"]
DeltaDiscoveryResponse: Any = _CLASSES["DeltaDiscoveryResponse"]
Resource: Any = _CLASSES["Resource"]
RouteConfiguration: Any = _CLASSES["RouteConfiguration"]
Cluster: Any = _CLASSES["Cluster"]
ClusterLoadAssignment: Any = _CLASSES["ClusterLoadAssignment"]
MergedLoadAssignment: Any = _CLASSES["MergedLoadAssignment"]
Saved: Any = _CLASSES["Saved"]
SavedType: Any = _CLASSES["SavedType"]
SavedResource: Any = _CLASSES["SavedResource"]


def any_head(type_url: str) -> bytes:
    """Return how a ``google.protobuf.Any`` of a type begins: its type URL, and the tag of its value."""
    url = type_url.encode()
    return b"\x0a%c%b\x12" % (len(url), url)


def any_value(raw: bytes, head: bytes) -> bytes | None:
    """Return the value of an ``Any``, None where it has to be parsed.

    That is where it does not begin with ``head`` and end with the value, or is of 16 KiB or more.
    """
    at = len(head)
    if len(raw) < at + 2 or not raw.startswith(head):
        return None
    size, more = raw[at], raw[at + 1]
    at += 1
    if size > 127:  # a varint of two bytes
        if more > 127:
            return None
        size += (more - 1) << 7
        at += 1
    return raw[at:] if at + size == len(raw) else None
