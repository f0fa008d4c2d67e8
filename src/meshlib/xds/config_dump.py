"""Envoy's config dump (``envoy.admin.v3.ConfigDump``), as ``istioctl proxy-config -f`` reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import json_format, timestamp_pb2

from meshlib.xds.admin_protos import base_pb2, bootstrap_pb2, config_dump_pb2, config_dump_shared_pb2
from meshlib.xds.cache import State
from meshlib.xds.inventory import Inventory, Known, Refusal
from meshlib.xds.shown import clean, shown
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET

_STATUS = config_dump_shared_pb2.ClientResourceStatus
STATUS = {
    State.REQUESTED: _STATUS.REQUESTED,
    State.MISSING: _STATUS.DOES_NOT_EXIST,
    State.ACKED: _STATUS.ACKED,
    State.NACKED: _STATUS.NACKED,
}


def as_json(inventory: Inventory) -> dict[str, Any]:
    """Return the dump as protobuf's JSON: plain dicts and lists, Envoy's field names."""
    found: dict[str, Any] = json_format.MessageToDict(config_dump(inventory), preserving_proto_field_name=True)
    return found


def config_dump(inventory: Inventory) -> Any:
    """Return what is known as Envoy says it: bootstrap, clusters, endpoints, listeners, routes, secrets.

    Secrets are blotted out; see :mod:`~meshlib.xds.shown`. A resource that is awaited or does not
    exist is not in it (CSDS has it), nor is the name table, for which Envoy has no place.
    """
    dump = config_dump_pb2.ConfigDump()
    node = base_pb2.Node()
    node.CopyFrom(inventory.node)
    bootstrap = config_dump_pb2.BootstrapConfigDump(bootstrap=bootstrap_pb2.Bootstrap(node=clean(node)))
    dump.configs.add().Pack(bootstrap)
    sections: tuple[tuple[str, Callable[[Iterable[Known]], Any]], ...] = (
        (CLUSTER, _clusters),
        (ENDPOINT, _endpoints),
        (LISTENER, _listeners),
        (ROUTE, _routes),
        (SECRET, _secrets),  # `istioctl proxy-config all` demands the section, empty or not
    )
    for url, section in sections:
        dump.configs.add().Pack(section(_told(inventory, url)))
    return dump


def timestamp(seconds: float) -> Any:
    """Return wall-clock seconds as a ``google.protobuf.Timestamp``."""
    found = timestamp_pb2.Timestamp()
    found.FromNanoseconds(int(seconds * 1e9))
    return found


def update_failure(refusal: Refusal) -> Any:
    """Return a refused update as an ``UpdateFailureState``."""
    return config_dump_shared_pb2.UpdateFailureState(
        failed_configuration=shown(refusal.raw),
        last_update_attempt=timestamp(refusal.at),
        details=refusal.details,
        version_info=refusal.version,
    )


def _told(inventory: Inventory, type_url: str) -> list[Known]:
    found = (one for one in inventory.resources if one.type_url == type_url and (one.last or one.refusal))
    return sorted(found, key=lambda one: one.name)


def _listeners(resources: Iterable[Known]) -> Any:
    section = config_dump_shared_pb2.ListenersConfigDump()
    for one in resources:
        if one.static:
            section.static_listeners.add(listener=shown(one.last), last_updated=timestamp(one.at))
            continue
        listener = section.dynamic_listeners.add(name=one.name, client_status=STATUS[one.state])
        if one.used:
            _fill(listener.active_state, "listener", one, one.used)
        if one.last and one.last != one.used:
            _fill(listener.warming_state, "listener", one, one.last)
        _fail(listener, one)
    return section


def _clusters(resources: Iterable[Known]) -> Any:
    section = config_dump_shared_pb2.ClustersConfigDump()
    for one in resources:
        if one.static:
            section.static_clusters.add(cluster=shown(one.last), last_updated=timestamp(one.at))
            continue
        if one.used or not one.last:  # one that never was good has its error alone, as gRPC shows it (gRFC A40)
            active = section.dynamic_active_clusters.add(client_status=STATUS[one.state])
            if one.used:
                _fill(active, "cluster", one, one.used)
            _fail(active, one)
        if one.last and one.last != one.used:
            warming = section.dynamic_warming_clusters.add(client_status=STATUS[one.state])
            _fill(warming, "cluster", one, one.last)
            if not one.used:
                _fail(warming, one)
    return section


def _routes(resources: Iterable[Known]) -> Any:
    section = config_dump_shared_pb2.RoutesConfigDump()
    _in_two(section.static_route_configs, section.dynamic_route_configs, "route_config", resources)
    return section


def _endpoints(resources: Iterable[Known]) -> Any:
    section = config_dump_shared_pb2.EndpointsConfigDump()
    _in_two(section.static_endpoint_configs, section.dynamic_endpoint_configs, "endpoint_config", resources)
    return section


def _in_two(static: Any, dynamic: Any, field: str, resources: Iterable[Known]) -> None:
    for one in resources:
        if one.static:
            static.add(last_updated=timestamp(one.at), **{field: shown(one.last)})
        else:
            _in_use(dynamic.add(), field, one)


def _secrets(resources: Iterable[Known]) -> Any:
    section = config_dump_pb2.SecretsConfigDump()
    for one in resources:
        if one.static:
            section.static_secrets.add(name=one.name, secret=shown(one.last), last_updated=timestamp(one.at))
        elif one.used or one.last:
            state = section.dynamic_active_secrets if one.used else section.dynamic_warming_secrets
            _in_use(state.add(name=one.name), "secret", one)
    return section


def _in_use(state: Any, field: str, one: Known) -> None:
    """Fill a dump that has no place for a version not yet in use."""
    state.client_status = STATUS[one.state]
    if raw := one.used or one.last:
        _fill(state, field, one, raw)
    _fail(state, one)


def _fill(state: Any, field: str, one: Known, raw: bytes) -> None:
    getattr(state, field).CopyFrom(shown(raw))
    if raw == one.last:  # of the version before the last only the bytes are kept
        state.version_info = one.version
        state.last_updated.CopyFrom(timestamp(one.at))


def _fail(state: Any, one: Known) -> None:
    if one.refusal is not None:
        state.error_state.CopyFrom(update_failure(one.refusal))
