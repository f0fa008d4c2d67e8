"""Which endpoints a client prefers: localities by priority or by weight, as the client's own place decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from meshlib.controlplane.documents.destination_rule import TrafficPolicy
from meshlib.controlplane.documents.locality import Distribute, Failover, LocalityLb
from meshlib.controlplane.services import Endpoint, Service
from meshlib.controlplane.view import View

_NETWORK, _REGION, _ZONE, _SUBZONE, _HOST = (
    "topology.istio.io/network",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
    "kubernetes.io/hostname",
)
_DISTRIBUTIONS = {
    "PreferClose": (_NETWORK, _REGION, _ZONE),
    "PreferSameZone": (_NETWORK, _REGION, _ZONE),
    "PreferSameNode": (_NETWORK, _REGION, _ZONE, _SUBZONE, _HOST),
}


@dataclass(frozen=True, slots=True)
class Group:
    """The endpoints of one locality, or some of them.

    Attributes:
        weight: that of the group, the sum of its endpoints' unless a rule gives another.
        priority: 0 is called first.
    """

    locality: str
    endpoints: tuple[Endpoint, ...]
    weight: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Preference:
    """The locality settings in force for a service, or a part of it.

    Attributes:
        priority: labels that decide, the most important first.
        fails_over: whether an endpoint that fails makes room for another locality.
    """

    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    priority: tuple[str, ...] = ()
    fails_over: bool = False

    @property
    def weighs(self) -> bool:
        """Whether Envoy is told to obey the weights of localities."""
        return bool(self.distribute) or (self.fails_over and bool(self.failover or self.priority))


def preference(service: Service, policy: TrafficPolicy | None, view: View) -> Preference | None:
    """Return what counts: the DestinationRule's setting, the Service's traffic distribution, the mesh's setting."""
    outliers = policy is not None and policy.outlier_detection is not None
    own = policy.load_balancer.locality_lb_setting if policy and policy.load_balancer else None
    if own is None and service.distribution in _DISTRIBUTIONS:
        return Preference(priority=_DISTRIBUTIONS[service.distribution], fails_over=True)
    setting = own or view.options.locality
    if setting is None:
        return Preference(fails_over=outliers)  # Istio's mesh-wide default: failover by locality
    return _of(setting, outliers=outliers) if setting.enabled else None


def _of(setting: LocalityLb, *, outliers: bool) -> Preference:
    return Preference(setting.distribute, setting.failover, setting.failover_priority, outliers)


def grouped(endpoints: Sequence[Endpoint], chosen: Preference | None, view: View) -> list[Group]:
    """Return the endpoints by locality, with the weights and priorities that the client at ``view`` gives them."""
    groups = [
        _group(name, tuple(item for item in endpoints if item.locality == name))
        for name in sorted({item.locality for item in endpoints})
    ]
    if chosen is None:
        return groups
    if chosen.distribute:
        return _distributed(groups, chosen.distribute, view.locality)
    if not chosen.fails_over:
        return groups
    if chosen.priority:
        groups = _by_labels(groups, chosen.priority, view)
        if not chosen.failover:
            return groups
    return _dense(
        replace(group, priority=group.priority * 5 + _distance(view.locality, group.locality, chosen.failover))
        for group in groups
    )


def _group(locality: str, endpoints: tuple[Endpoint, ...], priority: int = 0) -> Group:
    return Group(locality, endpoints, sum(item.weight for item in endpoints), priority)


def _parts(locality: str) -> tuple[str, str, str]:
    region, zone, subzone = [*locality.split("/"), "", "", ""][:3]
    return region, zone, subzone


def _matches(locality: str, rule: str) -> bool:
    """Tell whether a locality is one that a rule names: ``region/zone/*``, ``region``."""
    region, *narrower = zip(_parts(locality), _parts(rule), strict=True)
    return region[1] in ("*", region[0]) and all(wanted in ("*", "", is_) for is_, wanted in narrower)


def _distributed(groups: list[Group], rules: Iterable[Distribute], here: str) -> list[Group]:
    """Return the groups with the shares of the first rule for the client; what it does not name is emptied."""
    rule = next((item for item in rules if _matches(here, item.from_)), None)
    if rule is None:
        return groups
    made: dict[int, Group] = {}
    for there, share in rule.to.items():
        taken = [index for index, group in enumerate(groups) if index not in made and _matches(group.locality, there)]
        total = sum(groups[index].weight for index in taken)
        for index in taken:
            weight = ceil(groups[index].weight * share / total)
            made[index] = replace(groups[index], weight=weight or groups[index].weight)
    return [made.get(index, replace(group, endpoints=())) for index, group in enumerate(groups)]


def _distance(here: str, there: str, failover: Iterable[Failover]) -> int:
    """Return 0 to 3 by what both localities share, 4 where another region is the one to fail over to."""
    mine, other = _parts(here), _parts(there)
    if mine[0] == other[0]:
        return 2 if mine[1] != other[1] else 1 if mine[2] != other[2] else 0
    to = next((item.to for item in failover if item.from_ == mine[0]), None)
    return 3 if to is None or other[0] == to else 4


def _dense(groups: Iterable[Group]) -> list[Group]:
    """Return the groups with priorities that skip none."""
    kept = list(groups)
    order = sorted({group.priority for group in kept})
    return [replace(group, priority=order.index(group.priority)) for group in kept]


def _by_labels(groups: Iterable[Group], written: Sequence[str], view: View) -> list[Group]:
    """Return the groups split by how many of the labels, from the first, endpoints share with the client."""
    labels = [item.partition("=")[0] for item in written]
    here = {**view.node.labels, **_topology(view.locality), _HOST: str(view.node.metadata.get("NODE_NAME") or "")}
    here[_NETWORK] = here.get(_NETWORK) or str(view.node.metadata.get("NETWORK") or "")
    here |= {name: value for name, equals, value in (item.partition("=") for item in written) if equals}
    made = []
    for group in groups:
        by_priority: dict[int, list[Endpoint]] = {}
        for endpoint in group.endpoints:
            by_priority.setdefault(_rank(labels, here, endpoint), []).append(endpoint)
        made += [_group(group.locality, tuple(by_priority[key]), key) for key in sorted(by_priority)]
    return _dense(made)


def _rank(labels: Sequence[str], here: Mapping[str, str], endpoint: Endpoint) -> int:
    there = {**endpoint.labels, **_topology(endpoint.locality), _HOST: endpoint.node}
    there[_NETWORK] = endpoint.network or there.get(_NETWORK, "")
    apart = 0
    for index, name in enumerate(labels):
        if here.get(name, "") == there.get(name, ""):
            continue
        if index == 0 and name == _NETWORK:
            apart = len(labels)  # another network is worst, and what they share otherwise counts still
            continue
        return len(labels) - index + apart
    return apart


def _topology(locality: str) -> dict[str, str]:
    return {key: part for key, part in zip((_REGION, _ZONE, _SUBZONE), _parts(locality), strict=True) if part}
