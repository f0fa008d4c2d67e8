"""What istioctl does not look at: settings that are valid and do not do what they are there for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshlib.controlplane import hosts
from meshlib.controlplane.analysis.finding import Finding, found
from meshlib.controlplane.analysis.objects import (
    DOMAIN,
    Object,
    Objects,
    listed,
    mapping,
    number,
    seconds,
    selects,
    texts,
)  # fmt: skip
from meshlib.controlplane.services import Protocol, protocol_named, protocol_of_port

_DEFAULT_MAX_EJECTION = 10  # Envoy's, and Istio's


def _routes(objects: Objects) -> Iterator[tuple[Object, int, Mapping[str, Any]]]:
    for document in objects.of("VirtualService"):
        for index, route in enumerate(map(mapping, listed(document.spec.get("http")))):
            yield document, index, route


def per_try_timeouts(objects: Objects) -> Iterator[Finding]:
    """MSH0101: a timeout of one attempt that the timeout of all always comes before."""
    for document, index, route in _routes(objects):
        retries = mapping(route.get("retries"))
        whole = seconds(document.at("spec", "http", index, "timeout")) if "timeout" in route else None
        place = document.at("spec", "http", index, "retries", "perTryTimeout")
        one = seconds(place) if "perTryTimeout" in retries else None
        if whole and one and one >= whole and retries.get("attempts"):
            yield found(
                "MSH0101",
                place,
                f"perTryTimeout {retries['perTryTimeout']} is not less than the timeout {route['timeout']} of all "
                "attempts together: an attempt that hangs takes the whole time, and is never retried",
            )


_GRPC = frozenset({"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"})


def retry_conditions(objects: Objects) -> Iterator[Finding]:
    """MSH0102: retries on nothing that happens."""
    for document, index, route in _routes(objects):
        retries = mapping(route.get("retries"))
        words = [word.strip() for word in str(retries.get("retryOn") or "").split(",") if word.strip()]
        if not words or not retries.get("attempts"):
            continue
        place = document.at("spec", "http", index, "retries", "retryOn")
        codes = [word for word in words if word.isdigit()]
        useful = [word for word in words if not word.isdigit()]
        if "retriable-status-codes" in useful and not codes:
            useful.remove("retriable-status-codes")
            if not useful:
                yield found(
                    "MSH0102",
                    place,
                    "retriable-status-codes without a code never matches what fails: add one, as in 503",
                )
        elif useful and not codes and set(useful) <= _GRPC and not _speaks_grpc(objects, document, route):
            message = (
                f"{', '.join(useful)} are states of gRPC, and no destination of the route speaks it: nothing is retried"
            )
            yield found("MSH0102", place, message)


def _speaks_grpc(objects: Objects, document: Object, route: Mapping[str, Any]) -> bool:
    """Tell whether a destination may speak gRPC; one that nobody knows may."""
    for item in map(mapping, listed(route.get("route"))):
        destination = mapping(item.get("destination"))
        protocols = _protocols(objects, document, destination)
        if not protocols or any(protocol is not Protocol.HTTP for protocol in protocols):
            return True
    return False


def _protocols(objects: Objects, document: Object, destination: Mapping[str, Any]) -> list[Protocol]:
    full = hosts.qualify(str(destination.get("host", "")), document.namespace, DOMAIN)
    wanted = mapping(destination.get("port")).get("number")
    found_protocols = []
    for service in objects.of("Service"):
        if hosts.qualify(service.name, service.namespace, DOMAIN) == full:
            for port in map(mapping, listed(service.spec.get("ports"))):
                if wanted in (None, port.get("port")):
                    name, app = str(port.get("name") or ""), str(port.get("appProtocol") or "")
                    transport = str(port.get("protocol") or "TCP")
                    found_protocols.append(protocol_of_port(number(port.get("port")), name, transport, app))
    for entry in objects.of("ServiceEntry"):
        if full in [str(host) for host in listed(entry.spec.get("hosts"))]:
            ports = [mapping(port) for port in listed(entry.spec.get("ports"))]
            chosen = [port for port in ports if wanted in (None, port.get("number"))]
            found_protocols += [protocol_named(str(port.get("protocol") or "")) for port in chosen]
    return found_protocols


def ejections(objects: Objects) -> Iterator[Finding]:
    """MSH0103: outlier detection that never ejects."""
    for rule in objects.of("DestinationRule"):
        policy = mapping(rule.spec.get("trafficPolicy"))
        host = objects.host(str(rule.spec.get("host", "")), rule)
        whole: list[tuple[tuple[str | int, ...], Mapping[str, Any], Mapping[str, str]]]
        whole = [(("spec", "trafficPolicy", "outlierDetection"), mapping(policy.get("outlierDetection")), {})]
        for index, subset in enumerate(map(mapping, listed(rule.spec.get("subsets")))):
            own = mapping(mapping(subset.get("trafficPolicy")).get("outlierDetection"))
            where = ("spec", "subsets", index, "trafficPolicy", "outlierDetection")
            whole.append((where, own, texts(subset.get("labels"))))
        for path, detection, labels in whole:
            if not detection or host is None:
                continue
            known = [item.labels for item in objects.workloads if host.selector and selects(host.selector, item.labels)]
            count = sum(selects(labels, item) for item in (*known, *host.endpoints))
            percent = detection.get("maxEjectionPercent")
            # Envoy looks at the percentage after the ejection, since 1.29.
            limit = number(percent) if percent is not None else _DEFAULT_MAX_EJECTION
            if count and 100 / count > limit:
                said = (
                    f"maxEjectionPercent {limit}" if percent is not None else f"maxEjectionPercent {limit} by default"
                )
                yield found(
                    "MSH0103",
                    rule.at(*path, "maxEjectionPercent"),
                    f"{said} of {count} endpoint{'' if count == 1 else 's'} is less than one: nothing is ever ejected; "
                    f"write at least {-(-100 // count)}",
                )


def shadowed_routes(objects: Objects) -> Iterator[Finding]:
    """MSH0104: matches of a path that an earlier prefix takes, which istioctl looks for among prefixes only."""
    for document in objects.of("VirtualService"):
        wide: list[tuple[str, str]] = []
        for index, route in enumerate(map(mapping, listed(document.spec.get("http")))):
            rule = f'"{route["name"]}"' if route.get("name") else f"#{index}"
            for position, match in enumerate(map(mapping, listed(route.get("match")))):
                uri = mapping(match.get("uri"))
                exact = uri.get("exact")
                by = next((item for item in wide if isinstance(exact, str) and exact.startswith(item[0])), None)
                if by is not None:
                    place = document.at("spec", "http", index, "match", position)
                    message = (
                        f"rule {rule} is never reached by {exact}: the prefix {by[0]} of rule {by[1]} takes it before"
                    )
                    yield found("MSH0104", place, message)
                if (
                    isinstance(uri.get("prefix"), str)
                    and set(match) <= {"uri", "name"}
                    and not match.get("ignoreUriCase")
                ):
                    wide.append((uri["prefix"], rule))


def retried_faults(objects: Objects) -> Iterator[Finding]:
    """MSH0105: faults beside retries."""
    for document, index, route in _routes(objects):
        if mapping(route.get("fault")).get("abort") and mapping(route.get("retries")).get("attempts"):
            place = document.at("spec", "http", index, "fault", "abort")
            message = "an injected abort is not retried: Envoy's fault filter comes before the router that retries"
            yield found("MSH0105", place, message)
