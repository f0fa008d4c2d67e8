"""Resources as they may be shown: secrets are blotted out, and what nobody can read is named only.

Fields that Envoy's API marks as sensitive (``udpa.annotations.sensitive``: private keys,
passwords, inline tokens) read ``[redacted]``, as in Envoy's own config dump. Readers of
protobuf's JSON fail at an ``Any`` of a type they have not, and a secret in it would not be
recognised; so in place of one stands a ``udpa.type.v1.TypedStruct``, which istiod
sends and istioctl knows, with its type and its size.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from meshlib.xds.admin_protos import sensitive_pb2, typed_struct_pb2
from meshlib.xds.documents import import_types
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES

_REDACTED = "[redacted]"
_ANY = "google.protobuf.Any"
_WRAPPER = "envoy.service.discovery.v3.Resource"


def shown(raw: bytes) -> Any:
    """Return a resource, a serialised ``Any`` as it came, as an ``Any`` that may be shown to anybody."""
    try:
        packed = any_pb2.Any.FromString(raw)
        if packed.type_url.endswith(f"/{_WRAPPER}"):
            packed = discovery_pb2.Resource.FromString(packed.value).resource
    except DecodeError:
        return _unread("", raw)
    return _shown_any(packed, secret=False)


def clean(message: Any) -> Any:
    """Blot out the secrets in a message, in place, and return it."""
    _clean(message, secret=False)
    return message


def _shown_any(packed: Any, *, secret: bool) -> Any:
    kind = _message_class(packed.type_url)
    if kind is None:
        return _unread(packed.type_url, packed.value)
    try:
        message = kind.FromString(packed.value)
    except DecodeError:
        return _unread(packed.type_url, packed.value)
    _clean(message, secret=secret)
    return any_pb2.Any(type_url=packed.type_url, value=message.SerializeToString(deterministic=True))


def _unread(type_url: str, value: bytes) -> Any:
    stand_in = typed_struct_pb2.TypedStruct(type_url=type_url)
    stand_in.value.update({"not_shown": "neither its type nor what may be secret in it is known", "bytes": len(value)})
    packed = any_pb2.Any()
    packed.Pack(stand_in)
    return packed


def _clean(message: Any, *, secret: bool) -> None:
    descriptor = message.DESCRIPTOR
    if descriptor.full_name == _ANY:
        if message.type_url:
            message.CopyFrom(_shown_any(message, secret=secret))
        return
    if not secret and _innocent(descriptor):
        return
    for field, value in message.ListFields():
        _clean_field(message, field, value, secret=secret or _sensitive(field))


def _clean_field(message: Any, field: Any, value: Any, *, secret: bool) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _clean_map(field, value, secret=secret)
    elif field.message_type is not None:
        for one in value if field.is_repeated else (value,):
            _clean(one, secret=secret)
    elif secret and field.cpp_type == field.CPPTYPE_STRING:
        blot = _REDACTED.encode() if field.type == field.TYPE_BYTES else _REDACTED
        if field.is_repeated:
            value[:] = [blot] * len(value)
        else:
            setattr(message, field.name, blot)
    elif secret:
        message.ClearField(field.name)


def _clean_map(field: Any, value: Any, *, secret: bool) -> None:
    kind = field.message_type.fields_by_name["value"]
    for key in list(value):
        if kind.message_type is not None:
            _clean(value[key], secret=secret)
        elif secret and kind.cpp_type == kind.CPPTYPE_STRING:
            value[key] = _REDACTED.encode() if kind.type == kind.TYPE_BYTES else _REDACTED
        elif secret:
            del value[key]


@lru_cache(maxsize=1024)
def _message_class(type_url: str) -> Any:
    """Return the class of a type's messages, None for a type that is not installed."""
    if type_url in RESOURCE_TYPES:
        return RESOURCE_TYPES[type_url].message
    import_types({"@type": type_url})
    try:
        found = descriptor_pool.Default().FindMessageTypeByName(type_url.rpartition("/")[2])
    except KeyError:
        return None
    return message_factory.GetMessageClass(found)


@cache
def _sensitive(field: Any) -> bool:
    return bool(field.GetOptions().Extensions[sensitive_pb2.sensitive])


@cache
def _innocent(descriptor: Any) -> bool:
    """Tell whether no message of a type can hold a secret or an ``Any``, however deep."""
    seen, pending = {descriptor.full_name}, [descriptor]
    while pending:
        one = pending.pop()
        if one.full_name == _ANY:
            return False
        for field in one.fields:
            if _sensitive(field):
                return False
            below = field.message_type
            if below is not None and below.full_name not in seen:
                seen.add(below.full_name)
                pending.append(below)
    return True
