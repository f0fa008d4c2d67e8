"""The name table (NDS): which address a host name stands for, as Istio's DNS would answer."""

from __future__ import annotations

from typing import Any

from meshlib.controlplane.view import View
from meshlib.nds import NameTable


def name_table(view: View) -> Any:
    """Return the service addresses of every host that the node sees.

    A service without an address of its own is not in it: its listeners are found by their ports.
    """
    message = NameTable()
    for service, _ in view.services:
        addresses = [address for address in service.addresses if "/" not in address]  # a CIDR is no answer
        if addresses:
            info = message.table[service.host]
            info.ips.extend(addresses)
            info.registry = "External" if service.name == service.host else "Kubernetes"
            if info.registry == "Kubernetes":
                info.shortname, info.namespace = service.name, service.namespace
    return message
