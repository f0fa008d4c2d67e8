"""Inventory: what is known of every resource and server at one moment, for whoever looks inside.

It is taken where the state lives, cheaply, for bytes are not touched; what is made of it
(:mod:`~meshlib.xds.config_dump`, :mod:`~meshlib.xds.csds`, metrics) is made elsewhere, in the
thread of whoever asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from meshlib.xds.assembly import Assembly, pack
from meshlib.xds.bootstrap_parts import Bootstrap, authority_of
from meshlib.xds.cache import Entry, State
from meshlib.xds.channel import Channel
from meshlib.xds.type_urls import PREFIX, WILDCARD

OLD_STYLE = "#old"  # what gRFC A78 calls the authority of names that are not xdstp:


class Refusal(NamedTuple):
    """The last update of a resource, refused.

    Attributes:
        raw: the serialised ``Any`` that came.
        version: of the response it came with.
        at: wall-clock seconds.
        details: why, one fault after the other.
    """

    raw: bytes
    version: str
    at: float
    details: str


class Known(NamedTuple):
    """What is known of one resource; versions are serialised ``Any``, empty for none.

    Attributes:
        type_url: its type.
        name: its name.
        state: what came last; REQUESTED where nothing did.
        last: the last good version.
        used: the version in use: ``last``, or the one before while what ``last`` names is awaited.
        version: of the response ``last`` came with.
        at: wall-clock seconds when it came.
        refusal: the update after it that was refused.
        static: whether it is of the bootstrap itself.
    """

    type_url: str
    name: str
    state: State
    last: bytes = b""
    used: bytes = b""
    version: str = ""
    at: float = 0.0
    refusal: Refusal | None = None
    static: bool = False


class ServerCounts(NamedTuple):
    """What gRFC A78 wants to know of one management server.

    Attributes:
        address: the server.
        working: False from a failure without a response until the next response.
        failures: how often it went from working to failing.
        valid, invalid: resources that came from it and were good, or refused, by type URL.
    """

    address: str
    working: bool
    failures: int
    valid: Mapping[str, int]
    invalid: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything known at one moment.

    Attributes:
        node: the ``core.v3.Node``.
        resources: every resource that came or is asked for.
        servers: the management servers in use; none for a folder or a static bootstrap.
    """

    node: Any
    resources: tuple[Known, ...] = ()
    servers: tuple[ServerCounts, ...] = ()

    def counted(self) -> Mapping[tuple[str, str, str], int]:
        """Return the number of resources by authority, cache state and type, in the words of gRFC A78."""
        return Counter(
            (OLD_STYLE if (found := authority_of(one.name)) is None else found, _cache_state(one), plain(one.type_url))
            for one in self.resources
        )


def inventory(assembly: Assembly, node: Any, static: Bootstrap | None = None) -> Inventory:
    """Return what an assembly knows; to be called where the assembly may be read.

    Args:
        assembly: what there is.
        node: the ``core.v3.Node``.
        static: the bootstrap whose ``static_resources`` are told apart.
    """
    return Inventory(node, tuple(_resources(assembly, static.static if static is not None else {})))


def servers(channels: Iterable[Channel]) -> tuple[ServerCounts, ...]:
    """Return the counts of channels; to be called in the client's thread."""
    return tuple(
        ServerCounts(
            channel.server.address,
            not channel.failing,
            channel.counts.failures,
            dict(channel.counts.valid),
            dict(channel.counts.invalid),
        )
        for channel in channels
    )


def plain(type_url: str) -> str:
    """Return a type's name without the URL around it."""
    return type_url.removeprefix(PREFIX)


def _resources(assembly: Assembly, static: Mapping[str, Mapping[str, Any]]) -> Iterator[Known]:
    for url, entry in assembly.cache.all():
        yield _known(url, entry, static=_is_static(url, entry, static.get(url, {})))
    for url, name in assembly.dependencies.waiting():
        if name != WILDCARD:
            yield Known(url, name, State.REQUESTED)


def _is_static(type_url: str, entry: Entry, static: Mapping[str, Any]) -> bool:
    message = static.get(entry.name)  # or a file brought another of this name
    return message is not None and entry.resource is not None and entry.resource.raw == pack(type_url, message)


def _known(type_url: str, entry: Entry, *, static: bool) -> Known:
    refusal = None
    if entry.refused:
        raw, faults, version, at = entry.refused
        refusal = Refusal(raw, version, at, "; ".join(map(str, faults)))
    return Known(
        type_url,
        entry.name,
        entry.state,
        entry.resource.raw if entry.resource is not None else b"",
        entry.used.raw if entry.used is not None else b"",
        entry.version,
        entry.at,
        refusal,
        static,
    )


def _cache_state(known: Known) -> str:
    if known.state is State.NACKED and known.last:
        return "nacked_but_cached"
    return known.state.value.replace(" ", "_")
