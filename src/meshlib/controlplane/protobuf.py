"""The few protobuf shapes that every resource needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message


def pack(message: Message) -> any_pb2.Any:
    """Return the message as an Any; equal messages give equal bytes."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def duration(seconds: float) -> duration_pb2.Duration:
    """Return a Duration."""
    nanos = round(seconds * 1e9)
    return duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def ads() -> Any:
    """Return the ConfigSource of a sidecar's or gateway's resource, without a fetch timeout as istiod's."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        initial_fetch_timeout=duration(0),
        resource_api_version=config_source_pb2.ApiVersion.V3,
    )


def bare_ads() -> Any:
    """Return the ConfigSource that istiod gives gRPC clients."""
    return config_source_pb2.ConfigSource(ads=config_source_pb2.AggregatedConfigSource())


def socket_address(address: str, port: int) -> Any:
    """Return an Address: an IP or host name with a port, or ``unix:///path``."""
    if address.startswith("unix://"):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=address.removeprefix("unix://")))
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))


def metadata(**namespaces: Mapping[str, Any]) -> Any:
    """Return filter metadata, without the namespaces that have nothing to say."""
    message = base_pb2.Metadata()
    for name, values in namespaces.items():
        if values:
            message.filter_metadata[name].update(values)
    return message
