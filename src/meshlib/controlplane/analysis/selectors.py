"""Sidecars, Telemetries, AuthorizationPolicies and injection: which workload is meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshlib.controlplane.analysis.finding import Finding, found, not_found
from meshlib.controlplane.analysis.objects import (
    SYSTEM,
    Object,
    Objects,
    listed,
    mapping,
    selector_text,
    selects,
    texts,
)


def _names(documents: list[Object]) -> str:
    return f"[{' '.join(document.name for document in documents)}]"


def _chosen(objects: Objects, kind: str, way: tuple[str, str], codes: tuple[str, str], what: str) -> Iterator[Finding]:
    """Yield what is wrong with selectors: none taken, one taken twice, two documents without any."""
    one, several = codes
    by_workload: dict[tuple[str, str], list[Object]] = {}
    everywhere: dict[str, list[Object]] = {}
    for document in objects.of(kind):
        selector = texts(mapping(document.spec.get(way[0])).get(way[1]))
        if not selector:
            everywhere.setdefault(document.namespace, []).append(document)
            continue
        taken = [
            item
            for item in objects.workloads
            if item.namespace == document.namespace and selects(selector, item.labels)
        ]
        if not taken:
            place = document.at("spec", way[0], way[1], next(iter(selector)))
            yield not_found(place, "selector", selector_text(selector))
        for item in taken:
            by_workload.setdefault((item.namespace, item.name), []).append(document)
    for (namespace, name), documents in by_workload.items():
        for document in documents if len(documents) > 1 else ():
            yield found(
                one,
                document.at("metadata", "name"),
                f'The {what} {_names(documents)} in namespace "{namespace}" select the same workload pod '
                f'"{namespace}/{name}", which can lead to undefined behavior.',
            )
    for namespace, documents in everywhere.items():
        for document in documents if len(documents) > 1 else ():
            yield found(
                several,
                document.at("metadata", "name"),
                f'The {what} {_names(documents)} in namespace "{namespace}" have no workload selector, which can lead '
                "to undefined behavior.",
            )


def sidecars(objects: Objects) -> Iterator[Finding]:
    """IST0101, IST0110, IST0111."""
    return _chosen(objects, "Sidecar", ("workloadSelector", "labels"), ("IST0110", "IST0111"), "Sidecars")


def telemetries(objects: Objects) -> Iterator[Finding]:
    """IST0101, IST0159, IST0160."""
    return _chosen(objects, "Telemetry", ("selector", "matchLabels"), ("IST0159", "IST0160"), "Telemetries")


def telemetry_providers(objects: Objects) -> Iterator[Finding]:
    """IST0157: access logging to nobody."""
    if listed(mapping(objects.mesh.get("defaultProviders")).get("accessLogging")):
        return
    for document in objects.of("Telemetry"):
        for index, logging in enumerate(map(mapping, listed(document.spec.get("accessLogging")))):
            if not logging.get("disabled") and not listed(logging.get("providers")):
                message = (
                    f'The Telemetry {document.name} in namespace "{document.namespace}" with empty providers will be '
                )
                yield found("IST0157", document.at("spec", "accessLogging", index), f"{message}ignored.")


def authorization(objects: Objects) -> Iterator[Finding]:
    """IST0127, IST0101: policies for no workload, namespaces that do not exist."""
    for policy in objects.of("AuthorizationPolicy"):
        written = policy.spec.get("selector")
        selector = texts(mapping(written).get("matchLabels"))
        mesh_wide = policy.namespace == objects.root_namespace
        near = [item for item in objects.workloads if mesh_wide or item.namespace == policy.namespace]
        if not (mesh_wide and written is None) and not any(selects(selector, item.labels) for item in near):
            message = f"No matching workloads for this resource with the following labels: {selector_text(selector)}"
            yield found("IST0127", policy.at("spec", "selector"), message)


def authorization_namespaces(objects: Objects) -> Iterator[Finding]:
    """IST0101: namespaces that a policy names and nobody has."""
    known = [item.name for item in objects.of("Namespace")]
    for policy in objects.of("AuthorizationPolicy"):
        for index, rule in enumerate(map(mapping, listed(policy.spec.get("rules")))):
            for position, item in enumerate(map(mapping, listed(rule.get("from")))):
                source = mapping(item.get("source"))
                for key in ("namespaces", "notNamespaces"):
                    for place, name in enumerate(map(str, listed(source.get(key)))):
                        if not any(_named(namespace, name) for namespace in known):
                            where = policy.at("spec", "rules", index, "from", position, "source", key, place)
                            yield not_found(where, "namespace", name)


def _named(namespace: str, pattern: str) -> bool:
    if pattern.startswith("*"):
        return namespace.endswith(pattern[1:])
    if pattern.endswith("*"):
        return namespace.startswith(pattern[:-1])
    return namespace.lower() == pattern.lower()


_SYSTEMS = frozenset({SYSTEM, "kube-system", "kube-public", "kube-node-lease", "local-path-storage"})
_INJECTION, _REVISION, _MODE = "istio-injection", "istio.io/rev", "istio.io/dataplane-mode"


def injection(objects: Objects) -> Iterator[Finding]:
    """IST0102, IST0103: namespaces that do not say whether their Pods get a proxy, and Pods that got none."""
    injected: set[str] = set()
    for namespace in objects.of("Namespace"):
        labels = namespace.labels
        if namespace.name in _SYSTEMS or labels.get(_MODE) == "ambient":
            continue
        if not labels.get(_INJECTION) and _REVISION not in labels:
            name = namespace.name
            yield found("IST0102", namespace.at("metadata", "name"), _NOT_INJECTED.format(name, name))
        elif labels.get(_INJECTION) == "enabled":
            injected.add(namespace.name)
    for pod in objects.of("Pod"):
        refused = pod.labels.get("sidecar.istio.io/inject", pod.annotations.get("sidecar.istio.io/inject", ""))
        if pod.namespace not in injected or refused.lower() == "false" or pod.spec.get("hostNetwork"):
            continue
        containers = [*listed(pod.spec.get("containers")), *listed(pod.spec.get("initContainers"))]
        if not any(_is_proxy(mapping(container)) for container in containers):
            message = (
                f"The pod {pod.full_name} is missing the Istio proxy. This can often be resolved by restarting or "
            )
            yield found("IST0103", pod.at("metadata", "name"), f"{message}redeploying the workload.")


def _is_proxy(container: Mapping[str, Any]) -> bool:
    return container.get("name") == "istio-proxy" and bool(container.get("image"))


_NOT_INJECTED = (
    "The namespace is not enabled for Istio injection. Run 'kubectl label namespace {} istio-injection=enabled' to "
    "enable it, or 'kubectl label namespace {} istio-injection=disabled' to explicitly mark it as not needing "
    "injection."
)
