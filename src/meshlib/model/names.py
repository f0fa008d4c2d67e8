"""Names: the name table, as Istio's DNS answers it, and what listeners of gRPC's style are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class NameTable:
    """``istio.networking.nds.v1.NameTable``: what names stand for.

    A workload asks its DNS through a resolver with Kubernetes' search list (``ndots:5``); so
    short names are found without being in the table: ``catalog`` and ``catalog.shop`` as
    ``catalog.shop.svc.cluster.local``.

    Attributes:
        addresses: lower-case host -> IPs.
        wildcards: the same for hosts like ``*.example.com``, by what follows the star.
        search: the suffixes tried first, each with its leading dot, for names with fewer than
            five dots.
    """

    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wildcards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    search: tuple[str, ...] = ()

    def lookup(self, host: str) -> tuple[str, ...]:
        """Return the addresses of ``host`` (lower case), empty when it is not known here."""
        addresses = self.addresses
        if not addresses and not self.wildcards:
            return ()
        if host.endswith("."):
            queries = [host[:-1]]
        elif host.count(".") < _NDOTS:
            queries = [*[host + suffix for suffix in self.search], host]
        else:
            queries = [host]
        for name in queries:
            found = addresses.get(name) or (self._wildcard(name) if self.wildcards else None)
            if found:
                return found
        return ()

    def _wildcard(self, name: str) -> tuple[str, ...] | None:
        at = name.find(".")
        while at != -1:
            found = self.wildcards.get(name[at:])
            if found:
                return found
            at = name.find(".", at + 1)
        return None


_NDOTS = 5  # Kubernetes' resolv.conf: names with fewer dots are tried with the search list first


def search_list(node_id: str) -> tuple[str, ...]:
    """Return the search list of a pod from its Istio node id, ``sidecar~IP~POD.NS~NS.svc.cluster.local``.

    It is Kubernetes': the namespace's services, all services, the cluster. Empty where the id is
    not Istio's.
    """
    parts = node_id.split("~")
    domain = parts[3].strip(".").lower() if len(parts) == 4 else ""
    labels = domain.split(".")
    if len(labels) < 3 or labels[1] != "svc":
        return (f".{domain}",) if domain else ()
    return tuple(f".{'.'.join(labels[start:])}" for start in range(3))


def listener_name(template: str, target: str) -> str:
    """Return the listener's name for a target (``host:port``), by a template (gRFC A47).

    In an ``xdstp:`` name, what may not stand in a URI's path (RFC 3986, 3.3) is percent-encoded.
    """
    return template.replace("%s", quote(target, safe="/:@!$&'()*+,;=") if template.startswith("xdstp:") else target)
