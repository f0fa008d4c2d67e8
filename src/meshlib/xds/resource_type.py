"""The resource types that are understood: how each is named, parsed and decoded.

This is the plug between the protocol, which knows neither protobuf nor the model, and the
decoders, which know nothing of streams.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.listener import Listener
from meshlib.model.names import NameTable
from meshlib.model.route import RouteConfiguration
from meshlib.nds import NameTable as NameTableMessage
from meshlib.xds import type_urls
from meshlib.xds.decode_cds import cluster
from meshlib.xds.decode_eds import load_assignment
from meshlib.xds.decode_lds import listener
from meshlib.xds.decode_nds import name_table
from meshlib.xds.decode_rds import route_configuration
from meshlib.xds.faults import Fault, Note
from meshlib.xds.protos import cluster_pb2, discovery_pb2, endpoint_pb2, listener_pb2, route_pb2
from meshlib.xds.scope import Scope

Value = Listener | RouteConfiguration | Cluster | ClusterLoadAssignment | NameTable
_log = logging.getLogger("meshlib.xds")
_WRAPPER = type_urls.PREFIX + discovery_pb2.Resource.DESCRIPTOR.full_name


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a resource came to.

    Attributes:
        value: the model value; None when there are faults.
        faults: every reason why it cannot be used.
        notes: what of it is not, or only nearly, honoured.
    """

    value: Value | None
    faults: tuple[Fault, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """One resource of a response, read as far as its name.

    Attributes:
        name: its name, empty when it cannot be read.
        raw: its bytes; equal bytes are an equal resource.
        message: the parsed message, None when it does not parse.
        faults: why it does not.
    """

    name: str
    raw: bytes
    message: Any = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceType:
    """One resource type.

    Attributes:
        url: its type URL.
        message: its protobuf class.
        name_field: the field that names a resource; empty where there is only one of the type.
        decoder: message to model value; faults and notes go to the scope.
    """

    url: str
    message: Any
    name_field: str
    decoder: Callable[[Scope, Any], Value]

    def read(self, packed: Any) -> Received:
        """Return one ``Any`` of a response, out of its ``discovery.v3.Resource`` if it is in one."""
        name = ""
        try:
            if packed.type_url == _WRAPPER:
                wrapper = discovery_pb2.Resource.FromString(packed.value)
                name, packed = wrapper.name, wrapper.resource
            if packed.type_url != self.url:
                return self._unread(name, packed.value, f"expected a {self.url}, not {packed.type_url or 'nothing'}")
            message = self.message.FromString(packed.value)
        except DecodeError as error:
            return self._unread(name, packed.value, f"does not parse: {error}")
        name = getattr(message, self.name_field) if self.name_field else type_urls.SINGLETON
        return Received(name, packed.value, message)

    def decode(self, name: str, message: Any) -> Decoded:
        """Return the model value of a message, or every fault in it. Never raises."""
        scope = Scope(name, self.url)
        try:
            value = self.decoder(scope, message)
        except Exception as error:  # noqa: BLE001  a decoder's own fault costs one resource, not the client's thread
            _log.exception("type=%s resource=%s decoding failed", type_urls.short(self.url), name)
            scope.fault("", f"could not be decoded: {type(error).__name__}: {error}")
            value = None
        faults = tuple(scope.faults)
        return Decoded(None if faults else value, faults, tuple(scope.notes))

    def _unread(self, name: str, raw: bytes, message: str) -> Received:
        return Received(name, raw, None, (Fault(name, self.url, "", message),))


RESOURCE_TYPES: Mapping[str, ResourceType] = {
    kind.url: kind
    for kind in (
        ResourceType(type_urls.LISTENER, listener_pb2.Listener, "name", listener),
        ResourceType(type_urls.ROUTE, route_pb2.RouteConfiguration, "name", route_configuration),
        ResourceType(type_urls.CLUSTER, cluster_pb2.Cluster, "name", cluster),
        ResourceType(type_urls.ENDPOINT, endpoint_pb2.ClusterLoadAssignment, "cluster_name", load_assignment),
        ResourceType(type_urls.NAME_TABLE, NameTableMessage, "", name_table),
    )
}
