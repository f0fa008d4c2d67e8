"""EnvoyFilters over the resources of one node, in Istio's order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.envoy_filter import (
    APPLIED,
    ConfigPatch,
    EnvoyFilter,
    FilterChainMatch,
    ListenerMatch,
    RouteConfigurationMatch,
)
from meshlib.controlplane.envoy_messages import NotEnvoys, merge, merge_any, opened, value_of
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.workloads import selects

OUTBOUND, INBOUND, GATEWAY = "SIDECAR_OUTBOUND", "SIDECAR_INBOUND", "GATEWAY"
_VIRTUAL = ("virtualInbound", "virtualOutbound")
_MANAGER = "envoy.filters.network.http_connection_manager"
_MERGES = ("MERGE", "MERGE_AND_REPLACE_LIST")


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


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches for one node, by what they are applied to."""

    by_target: dict[str, list[Change]]
    ports: dict[int, frozenset[int]]

    @classmethod
    def of(cls, documents: Documents, node: Node, options: MeshOptions) -> Patches:
        """Return the patches in force: by priority, those of the root namespace before, the older first."""
        namespaces = (options.root_namespace, node.namespace)
        chosen = [
            item
            for item in documents.envoy_filters
            if item.namespace in namespaces and selects(item.labels_chosen, node.labels)
        ]
        chosen.sort(key=lambda item: (item.spec.priority, item.namespace != options.root_namespace, item.age))
        found: dict[str, list[Change]] = {}
        for item in chosen if node.kind is not NodeKind.GRPC else ():
            for change in _changes(item, node):
                found.setdefault(change.patch.apply_to, []).append(change)
        return cls(found, {})

    def __bool__(self) -> bool:
        return bool(self.by_target)

    def _for(self, target: str, context: str) -> list[Change]:
        return [change for change in self.by_target.get(target, ()) if change.concerns(context)]

    # ------------------------------------------------------------ clusters

    def clusters(self, clusters: Iterable[Any], kind: NodeKind) -> Iterator[Any]:
        """Yield the clusters, changed."""
        for cluster in clusters:
            context = _context(kind, inbound=cluster.name.lower().startswith("inbound"))
            if self._cluster(cluster, self._for("CLUSTER", context)):
                yield cluster
        for change in self._for("CLUSTER", _context(kind)):
            if change.operation == "ADD":
                yield _clone(change.value)

    def _cluster(self, cluster: Any, changes: Iterable[Change]) -> bool:
        for change in changes:
            if not _cluster_matches(cluster, change):
                continue
            if change.operation == "REMOVE":
                return False
            if change.operation in _MERGES and not _merge_cluster_socket(cluster, change.value):
                change.merge(cluster)
        return True

    # ------------------------------------------------------------ listeners

    def listeners(self, listeners: Iterable[Any], kind: NodeKind) -> Iterator[Any]:
        """Yield the listeners, changed."""
        for listener in listeners:
            inbound = listener.name == "virtualInbound"
            if self._listener(listener, _context(kind, inbound=inbound)):
                yield listener
        for change in self._for("LISTENER", _context(kind)):
            if change.operation == "ADD":
                yield _clone(change.value)

    def _listener(self, listener: Any, context: str) -> bool:
        for change in self._for("LISTENER", context):
            if _listener_matches(listener, change):
                if change.operation == "REMOVE":
                    return False
                if change.operation in _MERGES:
                    change.merge(listener)
        for change in self._for("LISTENER_FILTER", context):
            if _listener_matches(listener, change):
                named = change.listener.listener_filter if change.listener else ""
                _apply(listener.listener_filters, change, named)
                _merge_typed(listener.listener_filters, change, named)
        self._chains(listener, context)
        return True

    def _chains(self, listener: Any, context: str) -> None:
        kept = [chain for chain in listener.filter_chains if not chain.filters or self._chain(listener, chain, context)]
        if len(kept) < len(listener.filter_chains):
            kept = [_clone(chain) for chain in kept]
            del listener.filter_chains[:]
            listener.filter_chains.extend(kept)
        if listener.HasField("default_filter_chain") and not self._chain(
            listener, listener.default_filter_chain, context
        ):
            listener.ClearField("default_filter_chain")
        for change in self._for("FILTER_CHAIN", context):
            if change.operation == "ADD" and _listener_matches(listener, change):
                listener.filter_chains.append(change.value)
        kept = [chain for chain in listener.filter_chains if chain.filters]  # as istiod: one without filters goes
        if len(kept) != len(listener.filter_chains):
            del listener.filter_chains[:]
            listener.filter_chains.extend(kept)

    def _chain(self, listener: Any, chain: Any, context: str) -> bool:
        """Change a filter chain; tell whether it stays."""

        def concerned(target: str) -> list[Change]:
            return [
                change
                for change in self._for(target, context)
                if _listener_matches(listener, change) and _chain_matches(listener, chain, change)
            ]

        for change in concerned("FILTER_CHAIN"):
            if change.operation == "REMOVE":
                return False
            if change.operation in _MERGES and not _merge_socket(chain, change.value):
                change.merge(chain)
        network = concerned("NETWORK_FILTER")
        for change in network:
            named = change.chain.filter.name if change.chain and change.chain.filter else ""
            _apply(chain.filters, change, named)
        for change in network:
            _merge_typed(
                chain.filters, change, change.chain.filter.name if change.chain and change.chain.filter else ""
            )
        http = concerned("HTTP_FILTER")
        tables = self._has_routes()
        for item in chain.filters:
            if item.name == _MANAGER and (http or tables):
                self._manager(item, http, context)
        return True

    def _has_routes(self) -> bool:
        return any(self.by_target.get(key) for key in ("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE"))

    def _manager(self, item: Any, changes: Iterable[Change], context: str) -> None:
        manager = opened(item.typed_config)
        relevant = []
        for change in changes:
            match = change.chain.filter if change.chain else None
            if match is None or not match.name or match.name == item.name:
                relevant.append((change, match.sub_filter.name if match and match.sub_filter else ""))
        for change, named in relevant:
            _apply(manager.http_filters, change, named)
        for change, named in relevant:
            _merge_typed(manager.http_filters, change, named)
        if manager.HasField("route_config"):
            self._table(manager.route_config, context)
        item.typed_config.Pack(manager, deterministic=True)

    # ------------------------------------------------------------ routes

    def tables(self, tables: Iterable[Any], kind: NodeKind) -> Iterator[Any]:
        """Yield the route tables, changed."""
        for table in tables:
            if self._has_routes():
                self._table(table, _context(kind))
            yield table

    def _table(self, table: Any, context: str) -> None:
        for change in self._for("ROUTE_CONFIGURATION", context):
            if change.operation in _MERGES and self._table_matches(table, change, context):
                change.merge(table)
        hosts = [change for change in self._for("VIRTUAL_HOST", context) if self._table_matches(table, change, context)]
        routes = [change for change in self._for("HTTP_ROUTE", context) if self._table_matches(table, change, context)]
        kept = [host for host in table.virtual_hosts if _virtual_host(host, hosts, routes)]
        kept += [change.value for change in hosts if change.operation == "ADD"]
        if any(change.operation in ("ADD", "REMOVE") for change in hosts):
            kept = [_clone(host) for host in kept]
            del table.virtual_hosts[:]
            table.virtual_hosts.extend(kept)

    def _table_matches(self, table: Any, change: Change, context: str) -> bool:
        match = change.table
        if match is None:
            return True
        if match.name and match.name != table.name:
            return False
        if context != GATEWAY:
            name = table.name.split("|")[1] if table.name.startswith("inbound|") else table.name
            return not match.port_number or name == str(match.port_number)
        number, port_name, gateway = _gateway_table(table.name)
        return (
            (not match.port_name or match.port_name == port_name)
            and (not match.gateway or match.gateway == gateway)
            and (not match.port_number or match.port_number in self.ports.get(number, frozenset({number})))
        )


# ---------------------------------------------------------------- choosing


def _changes(document: EnvoyFilter, node: Node) -> Iterator[Change]:
    for patch in document.spec.config_patches:
        if patch.apply_to not in APPLIED or not _proxy_matches(patch, node):
            continue
        try:
            yield Change(patch, None if patch.patch.operation == "REMOVE" else value_of(patch))
        except NotEnvoys:
            continue  # references tells of it


def _proxy_matches(patch: ConfigPatch, node: Node) -> bool:
    match = patch.match.proxy if patch.match else None
    if match is None:
        return True
    version = str(node.metadata.get("ISTIO_VERSION") or "")
    if match.proxy_version and not (version and re.search(match.proxy_version, version)):
        return False
    return all(node.metadata.get(key) == value for key, value in match.metadata.items())


def _context(kind: NodeKind, *, inbound: bool = False) -> str:
    return GATEWAY if kind is NodeKind.ROUTER else INBOUND if inbound else OUTBOUND


def _cluster_matches(cluster: Any, change: Change) -> bool:
    match = change.patch.match.cluster if change.patch.match else None
    if match is None:
        return True
    if match.name:
        return bool(match.name == cluster.name)
    _, port, subset, host = [*cluster.name.split("|"), "", "", "", ""][:4]
    services = [item["host"] for item in _services(cluster)] if cluster.name.startswith("inbound|") else [host]
    return (
        match.subset in ("", subset)
        and (not match.service or match.service in services)
        and (not match.port_number or str(match.port_number) == port)
    )


def _services(cluster: Any) -> Iterable[Any]:
    istio = cluster.metadata.filter_metadata.get("istio") if cluster.HasField("metadata") else None
    return istio["services"] if istio is not None and "services" in istio else ()


def _listener_matches(listener: Any, change: Change) -> bool:
    match = change.listener
    if match is None:
        return True
    if match.name and match.name != listener.name:
        return False
    if change.patch.apply_to != "LISTENER" and listener.name in _VIRTUAL:
        return True
    return not match.port_number or listener.address.socket_address.port_value == match.port_number


def _chain_matches(listener: Any, chain: Any, change: Change) -> bool:
    outer, match = change.listener, change.chain
    taken = chain.filter_chain_match
    if outer and outer.port_number and listener.name in _VIRTUAL and taken.destination_port.value != outer.port_number:
        return False
    if match is None:
        return True
    protocols = [part for part in match.application_protocols.split(",") if part]
    return (
        match.name in ("", chain.name)
        and (not match.sni or match.sni in taken.server_names)
        and match.transport_protocol in ("", taken.transport_protocol)
        and all(part in taken.application_protocols for part in protocols)
        and (not match.destination_port or taken.destination_port.value == match.destination_port)
    )


def _gateway_table(name: str) -> tuple[int, str, str]:
    """Return the port, the server's name and the gateway of a route table's name."""
    parts = name.split(".")
    number = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else 0
    if parts[0] == "https" and len(parts) == 5:
        return number, parts[2], f"{parts[4]}/{parts[3]}"
    return number, "", ""


# ---------------------------------------------------------------- changing


def _clone(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made


def _apply(items: Any, change: Change, named: str) -> None:
    """Add to a list of filters, or take from it; ``named`` is the one meant, perhaps none."""
    operation = change.operation
    found = next((index for index, item in enumerate(items) if item.name == named), None) if named else None
    if operation in ("REPLACE", "REMOVE") and found is not None:
        kept = [_clone(item) for item in items if item.name != named]
        if operation == "REPLACE":
            kept = [_clone(item) for item in items]
            kept[found] = change.value
        _set(items, kept)
    elif operation == "ADD" or (operation == "INSERT_AFTER" and not named):
        items.append(change.value)
    elif operation == "INSERT_FIRST" or (operation == "INSERT_BEFORE" and not named):
        _set(items, [change.value, *map(_clone, items)])
    elif operation in ("INSERT_BEFORE", "INSERT_AFTER") and found is not None:
        kept = [_clone(item) for item in items]
        kept.insert(found + (operation == "INSERT_AFTER"), change.value)
        _set(items, kept)


def _set(items: Any, values: Sequence[Any]) -> None:
    del items[:]
    items.extend(values)


def _merge_typed(items: Any, change: Change, named: str) -> None:
    """Merge into the configuration of filters; one without configuration stays."""
    if change.operation != "MERGE" or change.value is None:
        return
    for item in items:
        if (named and item.name != named) or not item.HasField("typed_config"):
            continue
        if change.value.HasField("typed_config"):
            merge_any(item.typed_config, change.value.typed_config)
        item.name = change.value.name or item.name


def _merge_cluster_socket(cluster: Any, value: Any) -> bool:
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


def _merge_socket(chain: Any, value: Any) -> bool:
    if not (value.HasField("transport_socket") and chain.HasField("transport_socket")):
        return False
    if value.transport_socket.name != chain.transport_socket.name:
        return False
    merge_any(chain.transport_socket.typed_config, value.transport_socket.typed_config)
    return True


def _virtual_host(host: Any, changes: Iterable[Change], routes: Sequence[Change]) -> bool:
    """Change a virtual host and its routes; tell whether it stays."""
    for change in changes:
        if not _host_matches(host, change):
            continue
        if change.operation == "REMOVE":
            return False
        if change.operation in _MERGES:
            change.merge(host)
        elif change.operation == "REPLACE":
            host.CopyFrom(change.value)
    _routes(host, [change for change in routes if _host_matches(host, change)])
    return True


def _routes(host: Any, changes: Sequence[Change]) -> None:
    kept = [_clone(route) for route in host.routes]
    for change in changes:
        if change.operation in _MERGES:
            for route in kept:
                if _route_matches(route, change):
                    change.merge(route)
        elif change.operation == "REMOVE":
            kept = [route for route in kept if not _route_matches(route, change)]
    for change in changes:
        named = bool(change.table and change.table.vhost and change.table.vhost.route)
        found = next((index for index, route in enumerate(kept) if _route_matches(route, change)), None)
        if change.operation == "ADD" or (change.operation == "INSERT_AFTER" and not named):
            kept.append(change.value)
        elif change.operation in ("INSERT_BEFORE", "INSERT_FIRST") and (not named or found is not None):
            kept.insert(found if named and change.operation == "INSERT_BEFORE" and found else 0, change.value)
        elif change.operation == "INSERT_AFTER" and found is not None:
            kept.insert(found + 1, change.value)
    if changes:
        _set(host.routes, kept)


def _host_matches(host: Any, change: Change) -> bool:
    match = change.table.vhost if change.table else None
    if match is None:
        return True
    return match.name in ("", host.name) and (not match.domain_name or match.domain_name in host.domains)


def _route_matches(route: Any, change: Change) -> bool:
    match = change.table.vhost.route if change.table and change.table.vhost else None
    if match is None:
        return True
    if match.name and match.name != route.name:
        return False
    return match.action == "ANY" or route.WhichOneof("action") == match.action.lower()
