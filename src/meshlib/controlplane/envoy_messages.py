"""JSON of an EnvoyFilter to Envoy's messages, and merging one message into another as Istio does."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import descriptor_pool, json_format, message_factory

from meshlib.controlplane.documents.envoy_filter import ConfigPatch
from meshlib.controlplane.documents.fields import GO_DURATION, go_seconds
from meshlib.controlplane.istio_messages import POOL as ISTIO

KINDS: Mapping[str, Any] = {
    "CLUSTER": cluster_pb2.Cluster,
    "FILTER_CHAIN": listener_components_pb2.FilterChain,
    "HTTP_FILTER": http_connection_manager_pb2.HttpFilter,
    "HTTP_ROUTE": route_components_pb2.Route,
    "LISTENER": listener_pb2.Listener,
    "LISTENER_FILTER": listener_components_pb2.ListenerFilter,
    "NETWORK_FILTER": listener_components_pb2.Filter,
    "ROUTE_CONFIGURATION": route_pb2.RouteConfiguration,
    "VIRTUAL_HOST": route_components_pb2.VirtualHost,
}
_DURATION, _ANY = "google.protobuf.Duration", "google.protobuf.Any"


class NotEnvoys(Exception):
    """A value that is no message of Envoy's, and why."""


def value_of(patch: ConfigPatch) -> Any:
    """Return the message that a patch has as its value.

    Raises:
        NotEnvoys: it is none.
    """
    kind = KINDS[patch.apply_to]
    message = kind()
    try:
        return json_format.ParseDict(_prepared(patch.patch.value or {}, kind.DESCRIPTOR), message)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise NotEnvoys(str(error)) from None


def _prepared(value: Any, descriptor: Any) -> Any:
    """Return JSON with Go's durations (``50ms``) as protobuf has them, and with the types of Anys at hand."""
    if not isinstance(value, dict):
        return value
    if descriptor.full_name == _ANY:
        inner = _type(str(value.get("@type", "")))
        return {**_prepared({k: v for k, v in value.items() if k != "@type"}, inner), "@type": value.get("@type", "")}
    made = {}
    for key, item in value.items():
        field = descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)
        made[key] = item if field is None else _field(item, field)
    return made


def _field(item: Any, field: Any) -> Any:
    kind = field.message_type
    if kind is None:
        return item
    if kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"].message_type
        return {k: _prepared(v, inner) for k, v in item.items()} if inner and isinstance(item, dict) else item
    if isinstance(item, list):
        return [_one(each, kind) for each in item]
    return _one(item, kind)


def _one(item: Any, kind: Any) -> Any:
    if kind.full_name == _DURATION and isinstance(item, str) and GO_DURATION.fullmatch(item):
        return f"{go_seconds(item):.9f}".rstrip("0").rstrip(".") + "s"
    return (
        _prepared(item, kind) if not kind.full_name.startswith("google.protobuf.") or kind.full_name == _ANY else item
    )


@lru_cache(maxsize=256)
def _type(url: str) -> Any:
    """Return the descriptor of an Any's type, importing Envoy's package that has it."""
    name = url.rpartition("/")[2]
    pool = descriptor_pool.Default()
    try:
        return pool.FindMessageTypeByName(name)
    except KeyError:
        pass
    package = name.rpartition(".")[0]
    if package.startswith(("envoy.", "xds.", "udpa.")):
        try:
            found = importlib.import_module(package)
            for module in pkgutil.iter_modules(found.__path__, f"{package}."):
                if module.name.endswith("_pb2"):
                    importlib.import_module(module.name)
            return pool.FindMessageTypeByName(name)
        except (ImportError, KeyError):
            pass
    raise NotEnvoys(f"no message is known as {name or 'nothing'!r}")


# ---------------------------------------------------------------- merging


def merge(into: Any, value: Any, *, replace_lists: bool = False) -> None:
    """Merge a message into another: lists grow, maps get keys, durations are replaced (Istio's rule)."""
    for field, item in value.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            target = getattr(into, field.name)
            for key in item:
                if field.message_type.fields_by_name["value"].message_type is None:
                    target[key] = item[key]
                else:
                    target[key].CopyFrom(item[key])
        elif field.is_repeated:
            if replace_lists:
                into.ClearField(field.name)
            getattr(into, field.name).extend(item)
        elif field.message_type is None:
            setattr(into, field.name, item)
        elif field.message_type.full_name == _DURATION:
            getattr(into, field.name).CopyFrom(item)
        else:
            getattr(into, field.name).SetInParent()
            merge(getattr(into, field.name), item, replace_lists=replace_lists)


def merge_any(into: Any, value: Any) -> None:
    """Merge what two Anys hold; of different types the first stays."""
    if into.type_url != value.type_url:
        return
    message, other = opened(into), opened(value)
    merge(message, other)
    into.Pack(message, deterministic=True)


def opened(packed: Any) -> Any:
    """Return the message in an Any."""
    name = packed.type_url.rpartition("/")[2]
    try:
        descriptor = ISTIO.FindMessageTypeByName(name)
    except KeyError:
        descriptor = _type(packed.type_url)
    message = message_factory.GetMessageClass(descriptor)()
    message.ParseFromString(packed.value)
    return message
