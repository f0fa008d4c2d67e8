"""Istio's ``NameTable`` message, which no package carries: what the NDS type of its xDS sends.

Source: ``pkg/dns/proto/nds.proto`` of istio/istio. Both halves of meshlib that speak xDS take it
from here, the client and the control plane.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "istio.networking.nds.v1"
_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE


def _field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, *, repeated: bool = False, type_name: str = ""
) -> None:
    kind = descriptor_pb2.FieldDescriptorProto
    message.field.add(
        name=name,
        number=number,
        label=kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL,
        type=_MESSAGE if type_name else _STRING,
        type_name=f".{_PACKAGE}.{type_name}" if type_name else None,
    )


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="pkg/dns/proto/nds.proto", package=_PACKAGE, syntax="proto3")
    table = file.message_type.add(name="NameTable")
    info = table.nested_type.add(name="NameInfo")
    _field(info, "ips", 1, repeated=True)
    _field(info, "registry", 2)
    _field(info, "shortname", 3)
    _field(info, "namespace", 4)
    _field(info, "alt_hosts", 5, repeated=True)
    entry = table.nested_type.add(name="TableEntry")
    entry.options.map_entry = True
    _field(entry, "key", 1)
    _field(entry, "value", 2, type_name="NameTable.NameInfo")
    _field(table, "table", 1, repeated=True, type_name="NameTable.TableEntry")
    _field(table, "name_info", 2, type_name="NameTable.NameInfo")
    return file


_POOL = descriptor_pool.DescriptorPool()  # one of our own: nobody else's copy can clash with it
_POOL.Add(_file())
NameTable: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.NameTable"))
