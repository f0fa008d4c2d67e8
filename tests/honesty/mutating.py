"""Damage to resources and responses: deterministic by the chance that is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from honesty.samples import typed
from honesty.walking import ANY, edited, messages, value_type
from meshlib.xds.protos import cluster_pb2, discovery_pb2, random_pb2, wrr_locality_pb2

_HUGE = 10 * 1024 * 1024
_TEXTS = (
    *("", "*", "/", "a" * 3000, "\0", "\r\n", "%REQ(", "%%", "é\U0001f600", "[", "(?P<a>", "a{1000}{1000}", "(?=a)"),
    *("(" * 500, "x*" * 2000, ":method", "Host", "not-a-number", "999.999.999.999", "::1", "xdstp://a/b?c#d"),
)
_EDGES = (2**16, 2**31, 2**32, 2**63, 2**64)
_NUMBERS = (0, 1, 2, 127, 128, 129, *_EDGES, *(edge - 1 for edge in _EDGES), -1, -(2**31), -(2**63))
_REALS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 100.0000001, 1e308, 5e-324)
_CLUSTER_TYPE = typed("extensions.clusters.aggregate.v3.ClusterConfig")["@type"]


def damaged_bytes(data: bytes, chance: Random) -> bytes:
    """Return bytes flipped, cut out, put in, cut off or made invalid UTF-8."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        if not damaged:
            break
        at, kind = chance.randrange(len(damaged)), chance.random()
        if kind < 0.5:
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind < 0.65:
            damaged[at] = 0xFF
        elif kind < 0.8:
            del damaged[at : at + chance.randint(1, 8)]
        elif kind < 0.95:
            damaged[at:at] = chance.randbytes(chance.randint(1, 8))
        else:
            del damaged[at:]
    return bytes(damaged)


def damaged_message(message: Any, chance: Random) -> Any:
    """Return a copy with one to three fields, of any message inside it, changed."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        steps, place = chance.choice(list(messages(message)))
        fields = [field for field, _ in place.ListFields()]
        if not fields or chance.random() < 0.35:
            fields = list(place.DESCRIPTOR.fields)
        if fields:
            field = chance.choice(fields)
            with contextlib.suppress(DecodeError):  # nested deeper than protobuf copies
                message = edited(message, steps, lambda inner, field=field: _change(inner, field, chance))
    return message


def _change(message: Any, field: FieldDescriptor, chance: Random) -> None:
    kind, is_map = value_type(field), field.message_type is not None and field.message_type.GetOptions().map_entry
    if chance.random() < 0.2:
        message.ClearField(field.name)
    elif is_map:
        _change_map(getattr(message, field.name), kind, chance)
    elif field.is_repeated:
        _change_list(getattr(message, field.name), field, kind, chance)
    elif kind is None:
        setattr(message, field.name, _scalar(field, chance))
    else:
        _fill(getattr(message, field.name), chance)


def _change_map(values: Any, kind: Any, chance: Random) -> None:
    key = chance.choice([*values, "", "changed"])
    if kind is None:
        values[key] = chance.choice(_TEXTS)
    else:
        _fill(values[key], chance)


def _change_list(values: Any, field: FieldDescriptor, kind: Any, chance: Random) -> None:
    if len(values) and chance.random() < 0.5:  # the same again, once or often
        for value in [values[chance.randrange(len(values))]] * chance.choice((1, 1, 40)):
            values.append(value)
    elif kind is None:
        values.append(_scalar(field, chance))
    else:
        _fill(values.add(), chance)


def _scalar(field: FieldDescriptor, chance: Random) -> Any:
    if field.enum_type is not None:
        return chance.choice((99, -1, 2**31 - 1, *(value.number for value in field.enum_type.values)))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.randbytes(chance.choice((0, 3, 5000)))
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "x" * _HUGE if chance.random() < 0.003 else chance.choice(_TEXTS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.choice(_REALS)
    low, high = _RANGES[field.cpp_type]
    return chance.choice([number for number in _NUMBERS if low <= number <= high])


_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def _fill(message: Any, chance: Random) -> None:
    """Make a message empty, or change one thing in it."""
    message.SetInParent()
    if message.DESCRIPTOR.full_name == ANY:
        _fill_any(message, chance)
    elif chance.random() < 0.3:
        message.Clear()
    elif message.DESCRIPTOR.full_name == "google.protobuf.Struct":
        message.CopyFrom(_deep_struct(chance.choice((3, 45))))
    elif message.DESCRIPTOR.fields:
        _change(message, chance.choice(list(message.DESCRIPTOR.fields)), chance)


def _fill_any(message: Any, chance: Random) -> None:
    kind = chance.randrange(6)
    if kind == 0:
        message.Clear()
    elif kind == 1:
        message.type_url = chance.choice(("type.googleapis.com/nothing.Known", "no slash", "/", _CLUSTER_TYPE))
    elif kind == 2:
        message.value = damaged_bytes(message.value or b"\x0a\x01a", chance)
    elif kind == 3:
        message.Pack(nested_policies(chance.choice((3, 15, 16, 17, 300))))
    elif kind == 4:
        message.value = b"\x0a\xff\xff\xff\xff\x0f" + message.value  # a length beyond the end
    else:
        for _ in range(chance.choice((1, 50))):  # an Any in an Any
            inner = AnyMessage()
            inner.CopyFrom(message)
            message.Pack(inner)


def _deep_struct(depth: int) -> Any:
    struct = struct_pb2.Struct()
    for _ in range(depth):
        outer = struct_pb2.Struct()
        outer.fields["a"].struct_value.CopyFrom(struct)
        struct = outer
    return struct


def nested_policies(depth: int) -> Any:
    """Nest load balancing policies in each other; each Any starts protobuf's own limit anew."""
    wrr = wrr_locality_pb2.WrrLocality()
    wrr.endpoint_picking_policy.policies.add().typed_extension_config.typed_config.Pack(random_pb2.Random())
    for _ in range(depth):
        outer = wrr_locality_pb2.WrrLocality()
        outer.endpoint_picking_policy.policies.add().typed_extension_config.typed_config.Pack(wrr)
        wrr = outer
    return wrr


def _nested_bytes(depth: int) -> bytes:
    """Return a Struct nested as deep in bytes, which may be deeper than protobuf reads."""
    data = b""
    for _ in range(depth):
        data = _delimited(0x2A, data)  # Value.struct_value
        data = _delimited(0x0A, b"\x0a\x01a" + _delimited(0x12, data))  # Struct.fields
    return data


def _delimited(tag: int, data: bytes) -> bytes:
    length, size = b"", len(data)
    while size > 127:
        length += bytes((size & 127 | 128,))
        size >>= 7
    return bytes((tag,)) + length + bytes((size,)) + data


def deep_metadata(chance: Random) -> bytes:
    """Return the bytes of a Cluster whose metadata is nested deep."""
    depth = chance.choice((20, 49, 50, 500))
    entry = _delimited(0x0A, _delimited(0x0A, b"istio") + _delimited(0x12, _nested_bytes(depth)))
    name = cluster_pb2.Cluster(name="deep", type="STATIC").SerializeToString()
    return name + b"\xca\x01" + _delimited(0, entry)[1:]  # field 25, metadata


def aggregate(name: str, *members: str) -> bytes:
    """Return the bytes of an aggregate cluster, of itself perhaps."""
    config = b"".join(_delimited(0x0A, member.encode()) for member in members)
    message = cluster_pb2.Cluster(name=name, connect_timeout={"seconds": 1}, lb_policy="CLUSTER_PROVIDED")
    message.cluster_type.name = "envoy.clusters.aggregate"
    message.cluster_type.typed_config.type_url = _CLUSTER_TYPE
    message.cluster_type.typed_config.value = config
    return message.SerializeToString()


def damaged_response(url: str, good: list[Any], chance: Random, parse: Callable[[bytes], Any]) -> bytes:
    """Return a DiscoveryResponse with some of the ``good`` resources (each an Any), at least one damaged."""
    response = discovery_pb2.DiscoveryResponse(version_info="damaged", type_url=url, nonce="n")
    response.resources.extend(chance.sample(good, min(len(good), chance.randint(1, 3))))
    packed, kind = response.resources[0], chance.random()
    if kind < 0.65:
        message = damaged_message(parse(packed.value), chance)
        packed.value = message.SerializeToString()
    elif kind < 0.8:
        packed.value = damaged_bytes(packed.value, chance)
    elif kind < 0.84:
        packed.type_url = chance.choice(("", "type.googleapis.com/nothing.Known", _CLUSTER_TYPE, url + "x"))
    elif kind < 0.88:
        for _ in range(chance.choice((1, 30))):
            response.resources.append(packed)
    elif kind < 0.9:
        wrapped = discovery_pb2.Resource(name=chance.choice(("", "other")), resource=packed)
        packed.Pack(wrapped)
    elif kind < 0.92 and url == packed.type_url and url.endswith("Cluster"):
        names = chance.choice((("a", "a"), ("a", "b"), ("b", "a")))
        packed.value = aggregate(*names) if chance.random() < 0.5 else deep_metadata(chance)
    else:
        return damaged_bytes(response.SerializeToString(), chance)
    return response.SerializeToString()
