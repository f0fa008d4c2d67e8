"""A fault on a service for a while: a file in the folder that takes the place of the service's VirtualService.

Of several VirtualServices for a host in the mesh one wins whole, the older, then the one whose name comes first. So
the file's has the routes of the one in force, each with the fault, and a name before all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshlib.controlplane import hosts
from meshlib.controlplane.documents import read
from meshlib.controlplane.documents.fields import plain
from meshlib.controlplane.documents.virtual_service import MESH, VirtualService
from meshlib.controlplane.faults import ERROR
from meshlib.controlplane.options import DEFAULTS
from meshlib.controlplane.precedence import Routing, virtual_services
from meshlib.controlplane.translate import registry_of
from meshlib.errors import ConfigError

PREFIX = "meshlib-fault-"
_NAME = "0-meshlib-fault"


@dataclass(frozen=True, slots=True)
class Injection:
    """What happens to calls.

    Attributes:
        abort: HTTP status that calls get, None for none.
        delay: how long they are held back, as Istio writes durations; empty for not at all.
        percent: share of the calls, 0 to 100.
    """

    abort: int | None
    delay: str
    percent: float

    def of(self) -> dict[str, Any]:
        """Return it as Istio's ``HTTPFaultInjection``."""
        share = {"percentage": {"value": self.percent}}
        made: dict[str, Any] = {}
        if self.delay:
            made["delay"] = {"fixedDelay": self.delay, **share}
        if self.abort is not None:
            made["abort"] = {"httpStatus": self.abort, **share}
        return made


def file_name(service: str, namespace: str) -> str:
    """Return the name of the file that holds the fault of a service."""
    return f"{PREFIX}{service}.{namespace}.json"


def content(files: Mapping[str, bytes], service: str, namespace: str, injection: Injection, until: str) -> bytes:
    """Return what the file is to hold.

    Args:
        files: the folder's others.
        service: short or full host of the service, as the namespace means it.
        namespace: of the service; the fault is for calls from every namespace that sees its VirtualService.
        injection: what is to happen.
        until: when it ends, for people who find the file.

    Raises:
        ConfigError: there is no such service, or what came out would not be applied.
    """
    documents, _ = read(files)
    options = DEFAULTS.under(documents.mesh)
    host = hosts.qualify(service, namespace, options.domain)
    if host not in registry_of(documents).services:
        raise ConfigError(f"there is no service {host}; name one of the folder as SERVICE.NAMESPACE")
    routing = Routing(virtual_services(documents.virtual_services, namespace, frozenset({MESH}), options), options)
    spec = _spec(routing.of(host), host)
    for route in spec["http"]:
        route["fault"] = {**route.get("fault", {}), **injection.of()}
    annotations = {"meshlib.dev/written-by": "meshlib fault", "meshlib.dev/until": until}
    name = f"{_NAME}-{service.partition('.')[0]}"
    made = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": spec,
    }
    written = json.dumps(made, indent=2).encode() + b"\n"
    _, faults = read({file_name(service, namespace): written})
    errors = [fault for fault in faults if fault.severity is ERROR]
    if errors:
        raise ConfigError(f"the fault cannot be put on: {errors[0].message}")
    return written


def _spec(document: VirtualService | None, host: str) -> dict[str, Any]:
    """Return the spec of the VirtualService in force for mesh calls of ``host``; a plain one where there is none."""
    if document is None or not document.spec.http:
        return {"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]}
    written: dict[str, Any] = plain(document.spec.at.tree)
    http = [_qualified(route, document) for route in written["http"]]
    # Of its hosts only this one, and of its gateways only the mesh: what else it does stays as it is.
    kept = {key: value for key, value in written.items() if key in ("exportTo", "tls", "tcp")}
    return {"hosts": [host], **kept, "http": http}


def _qualified(value: Any, document: VirtualService) -> Any:
    """Return a route with the full names of its destinations: the file may be of another namespace."""
    if isinstance(value, list):
        return [_qualified(item, document) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: _qualified(item, document) for key, item in value.items()}
    for key in ("destination", "mirror"):
        target = made.get(key)
        if isinstance(target, dict) and isinstance(target.get("host"), str):
            made[key] = {**target, "host": hosts.qualify(target["host"], document.namespace, DEFAULTS.domain)}
    return made
