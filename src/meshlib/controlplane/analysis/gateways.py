"""Gateways: the workload behind a selector, its ports, certificates, and Gateways that claim the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshlib.controlplane.analysis.finding import Finding, found, not_found
from meshlib.controlplane.analysis.objects import (
    Object,
    Objects,
    listed,
    mapping,
    number,
    selector_text,
    selects,
    texts,
)


def _selector(gateway: Object) -> Mapping[str, str]:
    return texts(gateway.spec.get("selector"))


def _servers(gateway: Object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, server in enumerate(listed(gateway.spec.get("servers"))):
        yield index, mapping(server)


def workloads(objects: Objects) -> Iterator[Finding]:
    """IST0101, IST0162: selectors that take no workload, ports that no Service of the workload has."""
    for gateway in objects.of("Gateway"):
        selector = _selector(gateway)
        chosen = [item for item in objects.workloads if selects(selector, item.labels)]
        if not chosen:
            key = next(iter(selector), "")
            yield not_found(gateway.at("spec", "selector", key), "selector", selector_text(selector))
            continue
        ports = {
            port
            for item in chosen
            for service in objects.of("Service")
            if service.namespace == item.namespace and selects(texts(service.spec.get("selector")), item.labels)
            for port in _ports(service)
        }
        for index, server in _servers(gateway):
            port = number(mapping(server.get("port")).get("number"))
            if port not in ports:
                yield found(
                    "IST0162",
                    gateway.at("spec", "servers", index, "port", "number"),
                    f"The gateway is listening on a target port (port {port}) that is not defined in the Service "
                    f"associated with its workload instances (Pod selector {selector_text(selector)}). If you need to "
                    "access the gateway port through the gateway Service, it will not be available.",
                )


def _ports(service: Object) -> Iterator[int]:
    for port in map(mapping, listed(service.spec.get("ports"))):
        if port.get("protocol", "TCP") == "TCP":
            yield number(port.get("port"))
            yield number(port.get("targetPort"))


def secrets(objects: Objects) -> Iterator[Finding]:
    """IST0101, IST0161: certificates that no Secret has, Secrets that have none."""
    for gateway in objects.of("Gateway"):
        selector = _selector(gateway)
        where = next((item.namespace for item in objects.workloads if selects(selector, item.labels)), None)
        for index, server in _servers(gateway) if where is not None else ():
            name = str(mapping(server.get("tls")).get("credentialName") or "")
            if not name:
                continue
            place = gateway.at("spec", "servers", index, "tls", "credentialName")
            secret = objects.find("Secret", str(where), name)
            if secret is None:
                yield not_found(place, "credentialName", name)
            elif not _has_certificate(secret):
                yield found(
                    "IST0161",
                    place,
                    f"The credential referenced by the Gateway {gateway.name} in namespace {where} is invalid, "
                    "which can cause the traffic not to work as expected.",
                )


def _has_certificate(secret: Object) -> bool:
    held = {**mapping(secret.body.get("data")), **mapping(secret.body.get("stringData"))}
    return any(held.get(key) and held.get(cert) for key, cert in (("tls.key", "tls.crt"), ("key", "cert")))


def conflicts(objects: Objects) -> Iterator[Finding]:
    """IST0145: another Gateway of the same workload has the same port and host."""
    for gateway in objects.of("Gateway"):
        selector = _selector(gateway)
        text = selector_text(selector)
        rivals = [item for item in objects.of("Gateway") if item is not gateway and _meet(objects, selector, item)]
        for index, server in _servers(gateway):
            port = number(mapping(server.get("port")).get("number"))
            claimed = {(str(host), server.get("bind")) for host in listed(server.get("hosts"))}
            names = sorted(
                {
                    rival.full_name
                    for rival in rivals
                    for _, other in _servers(rival)
                    if number(mapping(other.get("port")).get("number")) == port
                    and claimed & {(str(host), other.get("bind")) for host in listed(other.get("hosts"))}
                }
            )
            if names:
                written = ",".join(map(str, listed(server.get("hosts"))))
                who = f"workload selector {text}, port {port}, hosts {written}"
                message = f"Conflict with gateways {','.join(names)} ({who})."
                yield found("IST0145", gateway.at("spec", "servers", index), message)


def _meet(objects: Objects, selector: Mapping[str, str], other: Object) -> bool:
    theirs = _selector(other)
    mine, text = selector_text(selector), selector_text(theirs)
    if mine == text:
        return True
    return (mine in text or text in mine) and any(
        selects(selector, item.labels) and selects(theirs, item.labels) for item in objects.workloads
    )


def certificates(objects: Objects) -> Iterator[Finding]:
    """IST0138: one certificate in several Gateways of a workload."""
    for gateway in objects.of("Gateway"):
        for other in objects.of("Gateway"):
            if other is gateway or not selects(_selector(gateway), _selector(other)):
                continue
            for index, server in _servers(gateway):
                for _, theirs in _servers(other):
                    if _same_certificate(mapping(server.get("tls")), mapping(theirs.get("tls"))):
                        yield found(
                            "IST0138",
                            gateway.at("spec", "servers", index, "tls"),
                            f"Duplicate certificate in multiple gateways [{gateway.full_name} {other.full_name}] "
                            "may cause 404s if clients re-use HTTP2 connections.",
                        )


def _same_certificate(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    names = one.get("credentialName"), other.get("credentialName")
    if any(names):
        return names[0] == names[1]
    keys = ("serverCertificate", "privateKey")
    return all(one.get(key) and one.get(key) == other.get(key) for key in keys)
