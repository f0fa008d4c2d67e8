"""Responses read as far as they must be: what repeats in them stays bytes.

protobuf makes a Python object of every message that is touched, which for ten thousand resources
costs more than all the rest. A field of messages and a field of bytes are one on the wire
(wire type 2), so the messages here declare what Envoy declares as messages to be bytes: a
resource that is known already is recognised by its bytes and never parsed again.

The descriptors live in a pool of their own and cannot meet Envoy's.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_ONE, _MANY = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
_STRING, _BYTES, _DOUBLE = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_DOUBLE

# Field numbers are those of envoy.service.discovery.v3 and envoy.config.route.v3; what is not
# named here is kept as unknown fields.
_MESSAGES = {
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
Saved: Any = _CLASSES["Saved"]
SavedType: Any = _CLASSES["SavedType"]
SavedResource: Any = _CLASSES["SavedResource"]
