"""Requests to bytes, and responses from bytes, in both variants of ADS."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import any_pb2, duration_pb2

from meshlib.xds import wire
from meshlib.xds.protocol import DeltaRequest, Request
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.type_urls import ALL_TYPE_URLS

_INVALID_ARGUMENT = 3  # google.rpc.Code, as other clients NACK
_WRAPPED = b"envoy.service.discovery.v3.Resource"
_HEADS = {url: wire.any_head(url) for url in ALL_TYPE_URLS}


class Encoder:
    """Writes requests. One stream of them: what the last one said is kept, encoded."""

    def __init__(self) -> None:
        self._names: tuple[object, bytes] = ((), b"")

    def __call__(self, request: Request | DeltaRequest, node: Any) -> bytes:
        """Return a request's bytes.

        Args:
            request: what to say.
            node: the ``core.v3.Node``, for requests that carry it.
        """
        node = node if request.with_node else None
        if isinstance(request, DeltaRequest):
            delta = discovery_pb2.DeltaDiscoveryRequest(
                node=node,
                type_url=request.type_url,
                resource_names_subscribe=request.subscribe,
                resource_names_unsubscribe=request.unsubscribe,
                initial_resource_versions=request.initial_versions,
                response_nonce=request.nonce,
            )
            return _with_error(delta, request.error)
        # The names of ten thousand endpoints go out with each ACK and seldom change. Fields of a
        # message may come in any order and in pieces, so that their encoding can be kept.
        if self._names[0] is not request.names:
            names = discovery_pb2.DiscoveryRequest(resource_names=request.names)
            self._names = (request.names, names.SerializeToString())
        sotw = discovery_pb2.DiscoveryRequest(
            version_info=request.version, node=node, type_url=request.type_url, response_nonce=request.nonce
        )
        return _with_error(sotw, request.error) + self._names[1]


@dataclass(slots=True)
class Received:
    """A response of either variant, its resources still bytes.

    Attributes:
        type_url: its type.
        nonce: its nonce.
        version: ``version_info``, in delta ``system_version_info``.
        resources: each a serialised ``Any``.
        removed: ``removed_resources``.
        versions: ``Resource.version`` by name, where there is one.
        ttls: ``Resource.ttl`` by name, in seconds.
        heartbeats: names of resources without a resource.
    """

    type_url: str
    nonce: str
    version: str
    resources: Collection[bytes]
    removed: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    ttls: dict[str, float] = field(default_factory=dict)
    heartbeats: list[str] = field(default_factory=list)


def read_sotw(data: bytes) -> Received:
    """Return what a ``DiscoveryResponse`` says; raises protobuf's ``DecodeError``."""
    message = wire.DiscoveryResponse.FromString(data)
    resources = message.resources[:]
    received = Received(message.type_url, message.nonce, message.version_info, resources)
    head = _HEADS.get(message.type_url, b"")
    unusual = [raw for raw in resources if not raw.startswith(head)]
    if any(raw.find(_WRAPPED, 0, 80) >= 0 for raw in unusual):  # only TTLs need the wrapper
        received.resources = list(_unwrapped(resources, received))
    return received


def read_delta(data: bytes) -> Received:
    """Return what a ``DeltaDiscoveryResponse`` says; raises protobuf's ``DecodeError``."""
    message = wire.DeltaDiscoveryResponse.FromString(data)
    removed = tuple(message.removed_resources)
    received = Received(message.type_url, message.nonce, message.system_version_info, (), removed)
    found: list[bytes] = []
    for wrapped in message.resources[:]:
        found += _resource(wire.Resource.FromString(wrapped), received)
    received.resources = found
    return received


def _unwrapped(resources: Iterable[bytes], received: Received) -> Iterator[bytes]:
    """Take resources out of their ``discovery.v3.Resource``: TTLs and heartbeats aside."""
    for raw in resources:
        packed = any_pb2.Any.FromString(raw)
        if packed.type_url.endswith("/envoy.service.discovery.v3.Resource"):
            yield from _resource(wire.Resource.FromString(packed.value), received)
        else:
            yield raw


def _resource(resource: Any, received: Received) -> tuple[bytes, ...]:
    """Return the ``Any`` in a ``discovery.v3.Resource``, nothing for a heartbeat."""
    name = resource.name
    received.versions[name] = resource.version
    if resource.ttl:
        ttl = duration_pb2.Duration.FromString(resource.ttl)
        received.ttls[name] = ttl.seconds + ttl.nanos / 1e9
    if not resource.resource:
        received.heartbeats.append(name)
        return ()
    return (resource.resource,)


def _with_error(message: Any, error: str) -> bytes:
    if error:
        message.error_detail.code = _INVALID_ARGUMENT
        message.error_detail.message = error
    encoded: bytes = message.SerializeToString()
    return encoded
