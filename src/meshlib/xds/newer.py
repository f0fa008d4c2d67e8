"""Fields that Envoy has and the installed messages do not, yet.

On the wire they are unknown fields, which protobuf keeps, so they are read from there; in JSON
they would be errors, so a document that names one is read with messages that have them. Those
are made of the installed ones, in a pool of their own, which cannot meet Envoy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, unknown_fields

from meshlib.xds.documents import types
from meshlib.xds.protos import route_components_pb2, string_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_ROUTES = route_components_pb2.DESCRIPTOR.name
_COOKIES = 17  # RouteMatch.cookies, of CookieMatcher: name 1, string_match 2, invert_match 3
_COOKIE_MATCHER = (
    ("name", 1, _Field.TYPE_STRING, None),
    ("string_match", 2, _Field.TYPE_MESSAGE, "." + string_pb2.StringMatcher.DESCRIPTOR.full_name),
    ("invert_match", 3, _Field.TYPE_BOOL, None),
)


def cookies(match: Any) -> list[Any]:
    """Return ``RouteMatch.cookies``: messages with ``name``, ``string_match`` and ``invert_match``."""
    if "cookies" in match.DESCRIPTOR.fields_by_name:
        return list(match.cookies)
    unknown: Any = unknown_fields.UnknownFieldSet(match)
    raw = [field.data for field in unknown if field.field_number == _COOKIES]
    return [_cookie_matcher().FromString(data) for data in raw if isinstance(data, bytes)]


def parse_dict(data: Any, message: Any) -> Any:
    """Fill ``message`` from plain JSON, as ``json_format.ParseDict`` does, with the newer fields."""
    if "cookies" in route_components_pb2.RouteMatch.DESCRIPTOR.fields_by_name or not _mentions(data, "cookies"):
        return json_format.ParseDict(data, message)
    name = message.DESCRIPTOR.full_name
    pool = _pool(frozenset((name, *(url.rpartition("/")[2] for url in types(data)))))
    twin = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()
    json_format.ParseDict(data, twin, descriptor_pool=pool)
    message.MergeFromString(twin.SerializeToString())
    return message


def _mentions(data: Any, key: str) -> bool:
    if isinstance(data, Mapping):
        return key in data or any(_mentions(value, key) for value in data.values())
    return isinstance(data, list) and any(_mentions(value, key) for value in data)


@lru_cache(maxsize=1)
def _cookie_matcher() -> Any:
    pool = _pool(frozenset({"envoy.config.route.v3.RouteMatch"}))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("envoy.config.route.v3.CookieMatcher"))


def _pool(names: Iterable[str]) -> descriptor_pool.DescriptorPool:
    """Return a pool with messages of these names, and all that they are made of."""
    pool, done = descriptor_pool.DescriptorPool(), set[str]()

    def add(file: Any) -> None:
        if file.name in done:
            return
        done.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        if file.name == _ROUTES:
            _add_cookies(proto)
        pool.Add(proto)

    for name in sorted(names):
        try:
            add(descriptor_pool.Default().FindMessageTypeByName(name).file)
        except KeyError:
            continue  # a type nobody here has: parsing says so
    return pool


def _add_cookies(proto: Any) -> None:
    matcher = proto.message_type.add(name="CookieMatcher")
    for name, number, kind, type_name in _COOKIE_MATCHER:
        matcher.field.add(name=name, number=number, type=kind, type_name=type_name, label=_Field.LABEL_OPTIONAL)
    match = next(message for message in proto.message_type if message.name == "RouteMatch")
    type_name = ".envoy.config.route.v3.CookieMatcher"
    match.field.add(
        name="cookies", number=_COOKIES, type=_Field.TYPE_MESSAGE, type_name=type_name, label=_Field.LABEL_REPEATED
    )
