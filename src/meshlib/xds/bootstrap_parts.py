"""The parts of a bootstrap, and how its fields are read and complained about."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from meshlib.errors import BootstrapError
from meshlib.model.snapshot import Style
from meshlib.xds.faults import Note, Status
from meshlib.xds.fields import NOT_HONOURED

Json = Mapping[str, Any]
# Keys of a bootstrap that ask for a discovery service, or another, that is not spoken.
_CONSEQUENCES: Mapping[str, tuple[str, Status]] = {
    "layered_runtime": ("there is no runtime: its layers are not read, and RTDS is not asked for", Status.REFUSED),
    "cluster_manager": ("load is not reported (LRS), and nothing else in it is honoured", Status.REFUSED),
}
_log = logging.getLogger("meshlib.xds")


@dataclass(frozen=True, slots=True)
class Server:
    """One management server.

    Attributes:
        address: a gRPC target: ``host:port``, ``unix:///path``, ``dns:///host:port``.
        insecure: whether the connection is plaintext; nothing else is spoken yet.
    """

    address: str
    insecure: bool = True


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How configuration is got.

    Attributes:
        servers: management servers, best first; empty for a static bootstrap.
        node: the ``core.v3.Node`` of every first request, verbatim where the user gave one.
        style: how destinations are looked up.
        static: resources known from the start: type URL -> name -> message.
        wildcards: the types asked for whole, rather than by name.
        notes: what of the bootstrap itself is not honoured.
    """

    servers: tuple[Server, ...]
    node: Any
    style: Style
    static: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    wildcards: frozenset[str] = frozenset()
    notes: tuple[Note, ...] = ()

    @property
    def hint(self) -> str:
        """Words for when nothing asked for by name is answered, empty where nothing looks wrong."""
        if self.style is not Style.GRPC or "GENERATOR" in self.node.metadata.fields:
            return ""
        return "the bootstrap's node has no metadata GENERATOR: grpc, without which Istio serves it as a sidecar"


def check_address(address: str, origin: str) -> None:
    """Raise ``BootstrapError`` for what no gRPC channel can dial."""
    if address.startswith(("unix:", "dns:", "ipv4:", "ipv6:")):
        return
    host, _, port = address.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or bare_ipv6 or "/" in address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BootstrapError(f"{origin}: {address!r} is no address: expected host:port, [ipv6]:port or unix:///path")


def parse_message(data: Any, message: Any, origin: str) -> Any:
    """Fill ``message`` from plain JSON; raises ``BootstrapError`` with protobuf's own path."""
    try:
        return json_format.ParseDict(expect(data, Mapping, origin), message)
    except json_format.ParseError as error:
        raise BootstrapError(f"{origin}: {error}") from error
    except (TypeError, AttributeError, ValueError) as error:  # what ParseDict lets slip for wrong shapes
        name = message.DESCRIPTOR.full_name
        raise BootstrapError(f"{origin}: expected a {name}, not {data!r:.80}: {error}") from error


def unused(data: Json, known: str, origin: str) -> tuple[Note, ...]:
    """Warn once of keys that are not honoured, and return a note of each."""
    rest = sorted(set(data) - set(known.split()))
    if rest:
        _log.warning("bootstrap=%s not honoured: %s", origin, ", ".join(rest))
    return tuple(Note(origin, "bootstrap", key, *_CONSEQUENCES.get(key, (NOT_HONOURED,))) for key in rest)


def expect(data: object, kind: type[Any], origin: str) -> Any:
    """Return ``data`` if it is a ``kind`` (a mapping or a list), else raise ``BootstrapError``."""
    if not isinstance(data, kind):
        wanted = {"list": "a list", "Mapping": "a mapping", "str": "a string"}[kind.__name__]
        raise BootstrapError(f"{origin}: expected {wanted}, not {data!r:.80}")
    return data
