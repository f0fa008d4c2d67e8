"""One change of an EnvoyFilter, and how messages and lists of filters take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshlib.controlplane.documents.envoy_filter import (
    ConfigPatch,
    FilterChainMatch,
    ListenerMatch,
    RouteConfigurationMatch,
)
from meshlib.controlplane.envoy_messages import merge, merge_any

MERGES = ("MERGE", "MERGE_AND_REPLACE_LIST")


@dataclass(frozen=True, slots=True)
class Change:
    """One patch with its value as a message; None where it removes."""

    patch: ConfigPatch
    value: Any | None

    @property
    def operation(self) -> str:
        """What is done."""
        return self.patch.patch.operation

    def concerns(self, context: str) -> bool:
        """Tell whether it is about that side of a proxy."""
        match = self.patch.match
        return match is None or match.context in ("ANY", context)

    @property
    def listener(self) -> ListenerMatch | None:
        """What a listener must be."""
        return self.patch.match.listener if self.patch.match else None

    @property
    def chain(self) -> FilterChainMatch | None:
        """What a filter chain must be."""
        return self.listener.filter_chain if self.listener else None

    @property
    def table(self) -> RouteConfigurationMatch | None:
        """What a route table must be."""
        return self.patch.match.route_configuration if self.patch.match else None

    def merge(self, into: Any) -> None:
        """Merge the value into a message."""
        merge(into, self.value, replace_lists=self.operation == "MERGE_AND_REPLACE_LIST")


def clone(message: Any) -> Any:
    """Return a copy."""
    made = type(message)()
    made.CopyFrom(message)
    return made


def change_list(items: Any, change: Change, named: str) -> None:
    """Add to a list of filters, or take from it; ``named`` is the one meant, perhaps none."""
    operation = change.operation
    found = next((index for index, item in enumerate(items) if item.name == named), None) if named else None
    if operation in ("REPLACE", "REMOVE") and found is not None:
        kept = [clone(item) for item in items if item.name != named]
        if operation == "REPLACE":
            kept = [clone(item) for item in items]
            kept[found] = change.value
        set_list(items, kept)
    elif operation == "ADD" or (operation == "INSERT_AFTER" and not named):
        items.append(change.value)
    elif operation == "INSERT_FIRST" or (operation == "INSERT_BEFORE" and not named):
        set_list(items, [change.value, *map(clone, items)])
    elif operation in ("INSERT_BEFORE", "INSERT_AFTER") and found is not None:
        kept = [clone(item) for item in items]
        kept.insert(found + (operation == "INSERT_AFTER"), change.value)
        set_list(items, kept)


def set_list(items: Any, values: Sequence[Any]) -> None:
    """Put values in the place of a list's."""
    del items[:]
    items.extend(values)


def merge_typed(items: Any, change: Change, named: str) -> None:
    """Merge into the configuration of filters; one without configuration stays."""
    if change.operation != "MERGE" or change.value is None:
        return
    for item in items:
        if (named and item.name != named) or not item.HasField("typed_config"):
            continue
        if change.value.HasField("typed_config"):
            merge_any(item.typed_config, change.value.typed_config)
        item.name = change.value.name or item.name


def merge_cluster_socket(cluster: Any, value: Any) -> bool:
    """Merge a transport socket; tell whether the patch had one, for then nothing else of it counts."""
    if not value.HasField("transport_socket"):
        return False
    wanted = value.transport_socket
    if cluster.transport_socket_matches:
        sockets = [item.transport_socket for item in cluster.transport_socket_matches]
        found = next((item for item in sockets if item.name == wanted.name), None)
        if found is not None:
            merge_any(found.typed_config, wanted.typed_config)
    elif cluster.HasField("transport_socket") and cluster.transport_socket.name == wanted.name:
        merge_any(cluster.transport_socket.typed_config, wanted.typed_config)
    else:
        cluster.transport_socket.CopyFrom(wanted)
    return True


def merge_socket(chain: Any, value: Any) -> bool:
    """Merge a filter chain's transport socket; tell whether the patch had it."""
    if not (value.HasField("transport_socket") and chain.HasField("transport_socket")):
        return False
    if value.transport_socket.name != chain.transport_socket.name:
        return False
    merge_any(chain.transport_socket.typed_config, value.transport_socket.typed_config)
    return True
