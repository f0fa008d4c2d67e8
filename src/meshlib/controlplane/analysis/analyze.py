"""All checks, in one go: which there are, what they need, and which were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from meshlib.controlplane.analysis import (
    envoy_filters,
    gateways,
    own,
    rules,
    schema,
    selectors,
    virtual_services,
)
from meshlib.controlplane.analysis.finding import Finding
from meshlib.controlplane.analysis.objects import Objects
from meshlib.controlplane.documents import read
from meshlib.controlplane.faults import Fault

_SERVICES = ("Service", "ServiceEntry")
_WORKLOADS = ("Pod", "WorkloadEntry", "Deployment", "StatefulSet", "DaemonSet")


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: istioctl's name of its analyzer, where it has one.
        about: the kind that it is about; where there is none the check has nothing to say.
        needs: kinds of which the folder must have one, or the check would find fault with everything.
        run: the check.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    run: Callable[[Objects], Iterator[Finding]]


CHECKS = (
    Check("virtualservice.DestinationHostAnalyzer", "VirtualService", _SERVICES, virtual_services.destination_hosts),
    Check("virtualservice.DestinationRuleAnalyzer", "VirtualService", (), virtual_services.destination_subsets),
    Check("virtualservice.IngressSubsets", "VirtualService", (), virtual_services.ingress_subsets),
    Check("virtualservice.GatewayAnalyzer", "VirtualService", (), virtual_services.gateways),
    Check(
        "virtualservice.ConflictingMeshGatewayHostsAnalyzer", "VirtualService", (), virtual_services.conflicting_hosts
    ),
    Check("schema.ValidationAnalyzer.VirtualService", "VirtualService", (), virtual_services.unreachable_rules),
    Check("schema.ValidationAnalyzer.Values", "VirtualService", (), schema.weights_and_patterns),
    Check("schema.ValidationAnalyzer.MirrorPercent", "VirtualService", (), schema.mirror_percent),
    Check("gateway.IngressGatewayPortAnalyzer", "Gateway", _WORKLOADS, gateways.workloads),
    Check("gateway.SecretAnalyzer", "Gateway", _WORKLOADS, gateways.secrets),
    Check("gateway.ConflictingGatewayAnalyzer", "Gateway", (), gateways.conflicts),
    Check("gateway.CertificateAnalyzer", "Gateway", (), gateways.certificates),
    Check(
        "destinationrule.SubsetSelectPodAnalyzer", "DestinationRule", (*_SERVICES, *_WORKLOADS), rules.hosts_and_subsets
    ),
    Check("destinationrule.CaCertificateAnalyzer", "DestinationRule", (), rules.certificates_of_servers),
    Check("service.PortNameAnalyzer", "Service", (), rules.port_names),
    Check("serviceentry.Analyzer", "ServiceEntry", (), rules.entry_addresses),
    Check("serviceentry.ConflictingProtocols", "ServiceEntry", (), rules.entry_protocols),
    Check("sidecar.SelectorAnalyzer", "Sidecar", _WORKLOADS, selectors.sidecars),
    Check("telemetry.SelectorAnalyzer", "Telemetry", _WORKLOADS, selectors.telemetries),
    Check("telemetry.ProviderAnalyzer", "Telemetry", (), selectors.telemetry_providers),
    Check("auth.AuthorizationPoliciesAnalyzer", "AuthorizationPolicy", _WORKLOADS, selectors.authorization),
    Check("auth.Namespaces", "AuthorizationPolicy", ("Namespace",), selectors.authorization_namespaces),
    Check("injection.Analyzer", "Namespace", (), selectors.injection),
    Check("envoyfilter.EnvoyPatchAnalyzer", "EnvoyFilter", (), envoy_filters.operations),
    Check("meshlib.PerTryTimeout", "VirtualService", (), own.per_try_timeouts),
    Check("meshlib.RetryConditions", "VirtualService", (), own.retry_conditions),
    Check("meshlib.Ejections", "DestinationRule", _WORKLOADS, own.ejections),
    Check("meshlib.ShadowedRoutes", "VirtualService", (), own.shadowed_routes),
    Check("meshlib.RetriedFaults", "VirtualService", (), own.retried_faults),
)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What came out.

    Attributes:
        findings: the worst first, then by code, resource and place.
        unreadable: what could not be parsed; the rest was looked at all the same.
        skipped: name of a check -> why it did not run, although there was something for it to look at.
    """

    findings: tuple[Finding, ...]
    unreadable: tuple[Fault, ...]
    skipped: Mapping[str, str]


def analyze(files: Mapping[str, bytes], *, namespace: str = "default") -> Analysis:
    """Look at everything in ``files``.

    Args:
        files: name -> content.
        namespace: of the objects that name none.
    """
    _, faults = read(files, namespace=namespace)
    objects = Objects.read(files, namespace)
    found: list[Finding] = []
    skipped: dict[str, str] = {}
    for check in CHECKS:
        if not objects.of(check.about):
            continue
        if check.needs and not any(objects.of(kind) for kind in check.needs):
            skipped[check.name] = f"there is no {' or '.join(check.needs)} among the files"
            continue
        found.extend(check.run(objects))
    unreadable = tuple(fault for fault in faults if schema.unparsable(fault))
    found.extend(schema.of_reader((fault for fault in faults if fault not in unreadable), found))
    ordered = sorted(
        set(found), key=lambda item: (-item.level, item.code, item.resource, item.file, item.line, item.message)
    )
    return Analysis(tuple(ordered), unreadable, skipped)
