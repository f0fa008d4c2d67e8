"""DestinationRules, Services and ServiceEntries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshlib.controlplane import hosts
from meshlib.controlplane.analysis.finding import Finding, found
from meshlib.controlplane.analysis.objects import DOMAIN, Objects, listed, mapping, number, selects, texts
from meshlib.controlplane.services import Protocol, protocol_named, protocol_of_port


def hosts_and_subsets(objects: Objects) -> Iterator[Finding]:
    """IST0174, IST0173: rules for no service, subsets without a workload."""
    for rule in objects.of("DestinationRule"):
        written = str(rule.spec.get("host", ""))
        host = objects.host(written, rule)
        if host is None:
            message = f"The host {written} defined in the DestinationRule does not match any services in the mesh."
            yield found("IST0174", rule.at("spec", "host"), message)
            continue
        labels = [item.labels for item in objects.workloads] + list(host.endpoints)
        for index, subset in enumerate(map(mapping, listed(rule.spec.get("subsets")))):
            wanted = texts(subset.get("labels"))
            if not any(selects(wanted, item) for item in labels):
                yield found(
                    "IST0173",
                    rule.at("spec", "subsets", index),
                    f"The Subset {subset.get('name')} defined in the DestinationRule does not select any pods. "
                    "Which may lead to 503 UH (NoHealthyUpstream).",
                )


def certificates_of_servers(objects: Objects) -> Iterator[Finding]:
    """IST0128, IST0129: TLS that accepts any server."""
    for rule in objects.of("DestinationRule"):
        policy = mapping(rule.spec.get("trafficPolicy"))
        about = f"DestinationRule {rule.full_name} in namespace {rule.namespace} has TLS mode set to"
        chosen = "workloadSelector" in rule.spec
        mode = _unverified(mapping(policy.get("tls")), chosen=chosen)
        if mode:
            message = f"{about} {mode} but no caCertificates are set to validate server identity for host: "
            yield found("IST0128", rule.at("spec", "trafficPolicy", "tls"), f"{message}{rule.spec.get('host')}")
        for index, level in enumerate(map(mapping, listed(policy.get("portLevelSettings")))):
            mode = _unverified(mapping(level.get("tls")), chosen=chosen)
            if mode:
                port = number(mapping(level.get("port")).get("number"))
                yield found(
                    "IST0129",
                    rule.at("spec", "trafficPolicy", "portLevelSettings", index, "tls"),
                    f"{about} {mode} but no caCertificates are set to validate server identity for host: "
                    f"{rule.spec.get('host')} at port number:{port}",
                )


def _unverified(tls: Mapping[str, Any], *, chosen: bool) -> str:
    mode = str(tls.get("mode", ""))
    verified = tls.get("caCertificates") or (tls.get("credentialName") and chosen)
    return mode if mode in ("SIMPLE", "MUTUAL") and not verified else ""


def port_names(objects: Objects) -> Iterator[Finding]:
    """IST0118, IST0150: names of ports that say no protocol."""
    for service in objects.of("Service"):
        if "istio" in service.labels or service.labels.get("release") == "istio":
            continue  # Istio's own
        alias = service.spec.get("type") == "ExternalName"
        for index, port in enumerate(map(mapping, listed(service.spec.get("ports")))):
            name, app = str(port.get("name") or ""), str(port.get("appProtocol") or "")
            known = protocol_of_port(number(port.get("port")), name, str(port.get("protocol") or "TCP"), app)
            if known is not Protocol.SNIFFED and not (name == "tcp" and alias):
                continue
            place = service.at("spec", "ports", index)
            if alias:
                yield found("IST0150", place, _EXTERNAL_NAME)
                continue
            target = port.get("targetPort", 0)
            yield found(
                "IST0118",
                place,
                f"Port name {name} (port: {port.get('port')}, targetPort: {target}) doesn't follow the naming "
                "convention of Istio port.",
            )


_EXTERNAL_NAME = (
    "Port name for ExternalName service is invalid. Proxy may prevent tcp named ports and unmatched traffic "
    "for ports serving TCP protocol from being forwarded correctly"
)


def entry_addresses(objects: Objects) -> Iterator[Finding]:
    """IST0133, IST0134: TCP ports of a ServiceEntry without an address."""
    for entry in objects.of("ServiceEntry"):
        allocated = mapping(entry.body.get("status")).get("addresses")
        for index, port in enumerate(map(mapping, listed(entry.spec.get("ports")))):
            opaque = str(port.get("protocol") or "TCP").upper() == "TCP"
            if opaque and not entry.spec.get("addresses") and not allocated:
                if entry.spec.get("resolution", "NONE") == "NONE" or not _dns(entry.spec):
                    yield found(
                        "IST0133", entry.at("spec", "ports", index), f"Schema validation warning: {_NO_ADDRESS}"
                    )
                place = entry.at("spec", "ports", index)
                yield found("IST0134", place, "ServiceEntry addresses are required for this protocol.")


def _dns(spec: Mapping[str, Any]) -> bool:
    return str(spec.get("resolution", "")).startswith("DNS")


_NO_ADDRESS = "addresses are required for ports serving TCP (or unset) protocol when IP Autoallocation is not enabled"


def entry_protocols(objects: Objects) -> Iterator[Finding]:
    """IST0177: several ServiceEntries that disagree about a port of a host."""
    said: dict[tuple[str, int], dict[str, str]] = {}
    for entry in objects.of("ServiceEntry"):
        for host in listed(entry.spec.get("hosts")):
            for port in map(mapping, listed(entry.spec.get("ports"))):
                protocol = protocol_named(str(port.get("protocol") or "")).value
                key = hosts.qualify(str(host), entry.namespace, DOMAIN), number(port.get("number"))
                said.setdefault(key, {})[entry.full_name] = protocol
    for (full, number_of), protocols in said.items():
        if len(set(protocols.values())) > 1:
            names = ", ".join(sorted(protocols))
            for entry in objects.of("ServiceEntry"):
                if entry.full_name in protocols:
                    message = (
                        f'Multiple ServiceEntries ({names}) define the same host "{full}" and port {number_of} with '
                    )
                    kinds = ", ".join(sorted(set(protocols.values())))
                    yield found("IST0177", entry.at("spec", "ports"), f"{message}conflicting protocols ({kinds}).")
