"""The messages of Istio's own Envoy filters, which no package carries.

Source: ``envoy/extensions/stats/config.proto`` and ``envoy/config/filter/http/alpn/v2alpha1/config.proto``
of istio/api. Stock Envoys do not know them; Istio's proxies do.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_STRING, _BOOL, _ENUM, _MESSAGE = _Field.TYPE_STRING, _Field.TYPE_BOOL, _Field.TYPE_ENUM, _Field.TYPE_MESSAGE


def _field(message: Any, name: str, number: int, kind: Any = _STRING, *, repeated: bool = False, of: str = "") -> None:
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    message.field.add(name=name, number=number, label=label, type=kind, type_name=of or None)


def _stats() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="meshlib/stats/config.proto", package="stats", syntax="proto3")
    file.dependency.append("google/protobuf/duration.proto")
    metric = file.message_type.add(name="MetricConfig")
    entry = metric.nested_type.add(name="DimensionsEntry")
    entry.options.map_entry = True
    _field(entry, "key", 1)
    _field(entry, "value", 2)
    _field(metric, "dimensions", 1, _MESSAGE, repeated=True, of=".stats.MetricConfig.DimensionsEntry")
    _field(metric, "name", 2)
    _field(metric, "tags_to_remove", 3, repeated=True)
    _field(metric, "match", 4)
    _field(metric, "drop", 5, _BOOL)
    reporter = file.enum_type.add(name="Reporter")
    for number, name in enumerate(("UNSPECIFIED", "SERVER_GATEWAY")):
        reporter.value.add(name=name, number=number)
    plugin = file.message_type.add(name="PluginConfig")
    _field(plugin, "disable_host_header_fallback", 6, _BOOL)
    _field(plugin, "tcp_reporting_duration", 7, _MESSAGE, of=".google.protobuf.Duration")
    _field(plugin, "metrics", 8, _MESSAGE, repeated=True, of=".stats.MetricConfig")
    _field(plugin, "reporter", 10, _ENUM, of=".stats.Reporter")
    return file


def _alpn() -> Any:
    package = "istio.envoy.config.filter.http.alpn.v2alpha1"
    file = descriptor_pb2.FileDescriptorProto(name="meshlib/alpn/config.proto", package=package, syntax="proto3")
    config = file.message_type.add(name="FilterConfig")
    protocol = config.enum_type.add(name="Protocol")
    for number, name in enumerate(("HTTP10", "HTTP11", "HTTP2")):
        protocol.value.add(name=name, number=number)
    override = config.nested_type.add(name="AlpnOverride")
    _field(override, "upstream_protocol", 1, _ENUM, of=f".{package}.FilterConfig.Protocol")
    _field(override, "alpn_override", 2, repeated=True)
    _field(config, "alpn_override", 1, _MESSAGE, repeated=True, of=f".{package}.FilterConfig.AlpnOverride")
    return file


POOL = descriptor_pool.DescriptorPool()  # one of our own: nobody else's copy can clash with it
POOL.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
FILES = (_stats(), _alpn())
for _file in FILES:
    POOL.Add(_file)


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


StatsConfig: Any = _message("stats.PluginConfig")
AlpnConfig: Any = _message("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig")


class _Types:
    """Every message type there is here: protobuf's own pool, Istio's, and Envoy's modules as they are asked for.

    What ``google.protobuf.json_format`` wants of a descriptor pool.
    """

    def FindMessageTypeByName(self, name: str) -> Any:
        """Return the descriptor of a message type.

        Raises:
            KeyError: no package that is installed has it.
        """
        with contextlib.suppress(KeyError):
            return _DEFAULT.FindMessageTypeByName(name)
        with contextlib.suppress(KeyError):
            return POOL.FindMessageTypeByName(name)
        _import_package(name.rpartition(".")[0])
        return _DEFAULT.FindMessageTypeByName(name)


_DEFAULT = descriptor_pool.Default()
TYPES: Any = _Types()


@functools.cache
def _import_package(package: str) -> None:
    """Import the modules of a protobuf package, which registers their messages."""
    if not package.startswith(("envoy.", "xds.", "udpa.", "google.")):
        return
    with contextlib.suppress(ImportError):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if module.name.endswith("_pb2"):
                importlib.import_module(f"{package}.{module.name}")
