"""The resource types that are understood: how each is read, validated and decoded.

This is the plug between the protocol, which knows neither protobuf nor the model, and the
decoders, which know nothing of streams. A resource is validated whole when it comes. Where it is
of a shape that was valid before (:mod:`~meshlib.xds.shapes`), its value is made when it is used.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from meshlib.nds import NameTable as NameTableMessage
from meshlib.xds import type_urls, wire
from meshlib.xds.decode_cds import cluster
from meshlib.xds.decode_eds import load_assignment
from meshlib.xds.decode_lds import listener
from meshlib.xds.decode_nds import name_table
from meshlib.xds.decode_rds import route_configuration
from meshlib.xds.decode_tls import secret
from meshlib.xds.faults import Fault, Note
from meshlib.xds.protos import (
    cluster_pb2,
    discovery_pb2,
    endpoint_pb2,
    http_connection_manager_pb2,
    listener_pb2,
    route_pb2,
    secret_pb2,
)
from meshlib.xds.references import references
from meshlib.xds.resource import Examined, Reference, Remark, Resource, Value, remarks
from meshlib.xds.route_table import examine_table
from meshlib.xds.scope import Scope
from meshlib.xds.shapes import Outline, Shapes, assignment_outline, cluster_outline

_log = logging.getLogger("meshlib.xds")
_WRAPPER = type_urls.PREFIX + discovery_pb2.Resource.DESCRIPTOR.full_name
_HCM = http_connection_manager_pb2.HttpConnectionManager.DESCRIPTOR.full_name


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a message came to.

    Attributes:
        value: the model value; None when there are faults.
        faults: every reason why it cannot be used.
        notes: what of it is not, or only nearly, honoured.
    """

    value: Value | None
    faults: tuple[Fault, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class _Valid:
    """What holds for all resources of a valid shape.

    Attributes:
        notes: what of them is not, or only nearly, honoured.
        eds: whether they ask for an EDS resource of their own.
        references: what else they name.
        patience: see :class:`~meshlib.xds.resource.Resource`.
    """

    notes: Sequence[Remark]
    eds: bool
    references: tuple[Reference, ...]
    patience: float | None


@dataclass(frozen=True, slots=True)
class ResourceType:
    """One resource type.

    Attributes:
        url: its type URL.
        message: its protobuf class.
        name_field: the field that names a resource; empty where there is only one of the type.
        decoder: message to model value; faults and notes go to the scope.
        outline: what of the bytes is alike in many; None where there is no such thing.
        patience: the ``initial_fetch_timeout`` of what a message refers to, None where it does not say.
        head: how nearly all resources of the type begin.
    """

    url: str
    message: Any
    name_field: str
    decoder: Callable[[Scope, Any], Value]
    outline: Callable[[bytes], Outline] | None = None
    patience: Callable[[Any], float | None] = lambda _message: None
    head: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", wire.any_head(self.url))

    def examine(self, raw: bytes, previous: Callable[[str], Resource | None] = lambda _name: None) -> Examined:
        """Return one resource, validated whole. Never raises.

        Args:
            raw: a serialised ``google.protobuf.Any``: the resource, or the ``discovery.v3.Resource`` it is in.
            previous: returns the last good version by name, whose parts may serve again.
        """
        name = ""
        try:
            if self.outline is not None:
                value = wire.any_value(raw, self.head)
                if value is not None:
                    return self._outlined(self.outline, value, raw)
            packed = any_pb2.Any.FromString(raw)
            if packed.type_url == _WRAPPER:
                wrapper = discovery_pb2.Resource.FromString(packed.value)
                name, packed = wrapper.name, wrapper.resource
            if packed.type_url != self.url:
                return self._refused(name, f"expected a {self.url}, not {packed.type_url or 'nothing'}")
            if self.url == type_urls.ROUTE:
                return examine_table(packed.value, raw, previous)
            if self.outline is not None:
                return self._outlined(self.outline, packed.value, raw)
            return self._decoded(self.message.FromString(packed.value), raw)
        except DecodeError as error:
            return self._refused(name, f"does not parse: {error}")

    def _outlined(self, outline: Callable[[bytes], Outline], value: bytes, raw: bytes) -> Examined:
        name, shape, eds_name = outline(value)
        own = (type_urls.ENDPOINT, eds_name)
        valid = _SHAPES.get(shape)
        if valid is not None and name:
            named = (own, *valid.references) if valid.eds else valid.references
            return Examined(name, Resource(name, raw, self, named, valid.notes, (), valid.patience))
        message = self.message.FromString(value)
        examined = self._decoded(message, raw)
        resource = examined.resource
        # What is as short as its canonical form has no field twice; see assignment_outline.
        if resource is not None and shape is not None and message.ByteSize() == len(value):
            others = tuple(reference for reference in resource.references if reference != own)
            # Endpoints in a file of their own are named after the cluster, which a shape does not know.
            if all(url != type_urls.ENDPOINT for url, _ in others):
                notes = remarks(resource.notes(self.url))
                _SHAPES.add(shape, _Valid(notes, own in resource.references, others, resource.patience))
        return examined

    def _decoded(self, message: Any, raw: bytes) -> Examined:
        name = getattr(message, self.name_field) if self.name_field else type_urls.SINGLETON
        if not name:
            return self._refused("", "must not be empty", self.name_field)
        decoded = self.decode(name, message)
        value = decoded.value
        if value is None:
            return Examined(name, None, decoded.faults)
        found = remarks(decoded.notes)
        patience = self.patience(message)
        return Examined(name, Resource(name, raw, self, references(value), found, patience=patience, value=value))

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

    def make(self, name: str, raw: bytes) -> Value:
        """Return the value of a resource that was found valid."""
        packed = any_pb2.Any.FromString(raw)
        if packed.type_url == _WRAPPER:
            packed = discovery_pb2.Resource.FromString(packed.value).resource
        return self.decoder(Scope(name, self.url), self.message.FromString(packed.value))

    def _refused(self, name: str, message: str, field: str = "") -> Examined:
        return Examined(name, None, (Fault(name, self.url, field, message),))


_SHAPES: Shapes[_Valid] = Shapes()  # a cluster's and an assignment's cannot be alike


def _fetch_timeout(source: Any) -> float | None:
    """Return ``ConfigSource.initial_fetch_timeout`` in seconds, 0 = no bound, None where it is not set."""
    if not source.HasField("initial_fetch_timeout"):
        return None
    timeout = source.initial_fetch_timeout
    return max(0.0, float(timeout.seconds + timeout.nanos / 1e9))


def _table_patience(listener: Any) -> float | None:
    """Return how long the route tables of a listener are waited for: the longest that one of them says."""
    chains = [*listener.filter_chains, listener.default_filter_chain]
    packed = [network_filter.typed_config for chain in chains for network_filter in chain.filters]
    packed.append(listener.api_listener.api_listener)
    found = []
    for config in packed:
        if config.type_url.endswith(_HCM):
            with contextlib.suppress(DecodeError):  # of an inbound listener, which is not looked into
                manager = http_connection_manager_pb2.HttpConnectionManager.FromString(config.value)
                found.append(_fetch_timeout(manager.rds.config_source))
    said = [seconds for seconds in found if seconds is not None]
    return None if not said else 0.0 if 0.0 in said else max(said)


RESOURCE_TYPES: Mapping[str, ResourceType] = {
    kind.url: kind
    for kind in (
        ResourceType(type_urls.LISTENER, listener_pb2.Listener, "name", listener, patience=_table_patience),
        ResourceType(type_urls.ROUTE, route_pb2.RouteConfiguration, "name", route_configuration),
        ResourceType(
            type_urls.CLUSTER,
            cluster_pb2.Cluster,
            "name",
            cluster,
            cluster_outline,
            lambda message: _fetch_timeout(message.eds_cluster_config.eds_config),
        ),
        ResourceType(
            type_urls.ENDPOINT, endpoint_pb2.ClusterLoadAssignment, "cluster_name", load_assignment, assignment_outline
        ),
        ResourceType(type_urls.SECRET, secret_pb2.Secret, "name", secret),
        ResourceType(type_urls.NAME_TABLE, NameTableMessage, "", name_table),
    )
}
