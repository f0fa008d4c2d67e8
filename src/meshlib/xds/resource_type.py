"""The resource types that are understood: how each is read, validated and decoded.

This is the plug between the protocol, which knows neither protobuf nor the model, and the
decoders, which know nothing of streams. A resource is validated whole when it comes. Where it is
of a shape that was valid before (:mod:`~meshlib.xds.shapes`), its value is made when it is used.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from meshlib.nds import NameTable as NameTableMessage
from meshlib.xds import type_urls
from meshlib.xds.config_source import file_of, in_file
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
from meshlib.xds.resource import Examined, Reference, Resource, Value, remarks
from meshlib.xds.route_table import examine_table
from meshlib.xds.scope import Scope
from meshlib.xds.shapes import Shape, Shapes, assignment_shape, cluster_shape

_log = logging.getLogger("meshlib.xds")
_WRAPPER = type_urls.PREFIX + discovery_pb2.Resource.DESCRIPTOR.full_name
_EDS = cluster_pb2.Cluster.EDS
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
class ResourceType:
    """One resource type.

    Attributes:
        url: its type URL.
        message: its protobuf class.
        name_field: the field that names a resource; empty where there is only one of the type.
        decoder: message to model value; faults and notes go to the scope.
        shape: what of a message is alike in many; None where there is no such thing, or it has to
            be looked at closer. Spoils the message.
        names: what a message refers to, for messages that have a shape.
        patience: the ``initial_fetch_timeout`` of what a message refers to, None where it does not say.
    """

    url: str
    message: Any
    name_field: str
    decoder: Callable[[Scope, Any], Value]
    shape: Callable[[Any], bytes | None] | None = None
    names: Callable[[Any], tuple[Reference, ...]] = lambda _message: ()
    patience: Callable[[Any], float | None] = lambda _message: None

    def examine(self, raw: bytes, previous: Callable[[str], Resource | None] = lambda _name: None) -> Examined:
        """Return one resource, validated whole. Never raises.

        Args:
            raw: a serialised ``google.protobuf.Any``: the resource, or the ``discovery.v3.Resource`` it is in.
            previous: returns the last good version by name, whose parts may serve again.
        """
        name = ""
        try:
            packed = any_pb2.Any.FromString(raw)
            if packed.type_url == _WRAPPER:
                wrapper = discovery_pb2.Resource.FromString(packed.value)
                name, packed = wrapper.name, wrapper.resource
            if packed.type_url != self.url:
                return self._refused(name, f"expected a {self.url}, not {packed.type_url or 'nothing'}")
            if self.url == type_urls.ROUTE:
                return examine_table(packed.value, raw, previous)
            message = self.message.FromString(packed.value)
        except DecodeError as error:
            return self._refused(name, f"does not parse: {error}")
        name = getattr(message, self.name_field) if self.name_field else type_urls.SINGLETON
        if not name:
            return self._refused("", "must not be empty", self.name_field)
        return self._validated(name, message, packed.value, raw)

    def _validated(self, name: str, message: Any, value: bytes, raw: bytes) -> Examined:
        if self.shape is None:
            return self._decoded(name, message, raw)
        refers, patience = self.names(message), self.patience(message)
        shape = self.shape(message)
        if shape is None:
            return self._decoded(name, self.message.FromString(value), raw)
        known = _SHAPES.get((self.url, shape))
        if known is None:
            examined = self._decoded(name, self.message.FromString(value), raw)
            resource = examined.resource
            if resource is not None:
                secrets = tuple(reference for reference in resource.references if reference[0] == type_urls.SECRET)
                _SHAPES.add((self.url, shape), Shape(remarks(resource.notes(self.url)), secrets))
            return examined
        refers += known.references
        return Examined(name, Resource(name, raw, self._make, refers, known.notes, patience=patience))

    def _decoded(self, name: str, message: Any, raw: bytes) -> Examined:
        decoded = self.decode(name, message)
        value = decoded.value
        if value is None:
            return Examined(name, None, decoded.faults)
        found = remarks(decoded.notes)
        patience = self.patience(message)
        return Examined(name, Resource(name, raw, lambda _: value, references(value), found, patience=patience))

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

    def _make(self, resource: Resource) -> Value:
        packed = any_pb2.Any.FromString(resource.raw)
        if packed.type_url == _WRAPPER:
            packed = discovery_pb2.Resource.FromString(packed.value).resource
        return self.decoder(Scope(resource.name, self.url), self.message.FromString(packed.value))

    def _refused(self, name: str, message: str, field: str = "") -> Examined:
        return Examined(name, None, (Fault(name, self.url, field, message),))


_SHAPES: Shapes[Shape] = Shapes()


def _endpoints_of(message: Any) -> tuple[Reference, ...]:
    if message.type != _EDS:
        return ()
    name, file = message.eds_cluster_config.service_name or message.name, file_of(message.eds_cluster_config.eds_config)
    return ((type_urls.ENDPOINT, name if file is None else in_file(*file, name)),)


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
            cluster_shape,
            _endpoints_of,
            lambda message: _fetch_timeout(message.eds_cluster_config.eds_config),
        ),
        ResourceType(
            type_urls.ENDPOINT, endpoint_pb2.ClusterLoadAssignment, "cluster_name", load_assignment, assignment_shape
        ),
        ResourceType(type_urls.SECRET, secret_pb2.Secret, "name", secret),
        ResourceType(type_urls.NAME_TABLE, NameTableMessage, "", name_table),
    )
}
