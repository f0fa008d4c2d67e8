"""The name table (NDS): which address a host name stands for, as Istio's DNS would answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshlib.controlplane.services import Service
from meshlib.controlplane.view import View
from meshlib.nds import NameTable


def name_table(view: View) -> Any:
    """Return the service addresses of every host that the node sees, and those of a headless Service's Pods.

    A service without an address of its own is not in it: its listeners are found by their ports.
    """
    message = NameTable()
    for service, _ in view.services:
        addresses = [address for address in service.addresses if "/" not in address]  # a CIDR is no answer
        if service.headless and service.ports:
            for endpoint in service.ports[0].endpoints:
                if endpoint.healthy is not False:
                    addresses.append(endpoint.address)
                    if endpoint.hostname:
                        name = f"{endpoint.hostname}.{service.name}"
                        _put(message, f"{endpoint.hostname}.{service.host}", name, service, [endpoint.address])
        if addresses:
            _put(message, service.host, service.name, service, addresses)
    return message


def _put(message: Any, host: str, name: str, service: Service, addresses: Iterable[str]) -> None:
    info = message.table[host]
    info.ips.extend(addresses)
    info.registry = "External" if service.name == service.host else "Kubernetes"
    if info.registry == "Kubernetes":
        info.shortname, info.namespace = name, service.namespace
