"""When the names of a cluster are looked up, and which endpoints they come to; STRICT_DNS and LOGICAL_DNS."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address

from meshlib.clock import Randomness
from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery, Dns
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint

Answers = Mapping[str, Sequence[str]]  # addresses by name, in the resolver's order


def names_of(cluster: Cluster) -> frozenset[str]:
    """Return the names that a cluster's endpoints are given by."""
    if not cluster.discovery.by_name or cluster.assignment is None:
        return frozenset()
    endpoints = [e for locality in cluster.assignment.localities for e in locality.endpoints]
    return frozenset(e.address for e in endpoints if e.port and not _is_address(e.address))


def resolved(cluster: Cluster, answers: Answers) -> ClusterLoadAssignment | None:
    """Return the endpoints of a cluster once its names have been looked up.

    STRICT_DNS: every address is an endpoint, with weight, health, metadata and locality of the one
    configured; none is left once the name does not exist, as in Envoy. LOGICAL_DNS: there is one
    endpoint, whose connections stay when its address changes; new ones go to the first address.
    The name stays the endpoint's host name, unless it has one.
    """
    assignment = cluster.assignment
    if assignment is None or not cluster.discovery.by_name:
        return assignment
    logical = cluster.discovery is Discovery.LOGICAL_DNS
    seen: set[tuple[str, int]] = set()

    def found(endpoint: Endpoint) -> list[Endpoint]:
        if not endpoint.port or _is_address(endpoint.address):
            made = [endpoint]
        elif logical:
            made = [replace(endpoint, resolved=first) for first in answers.get(endpoint.address, ())[:1]]
        else:
            named = replace(endpoint, hostname=endpoint.hostname or endpoint.address)
            made = [replace(named, address=each) for each in answers.get(endpoint.address, ())]
        new = [each for each in made if each.key not in seen]
        seen.update(each.key for each in new)
        return new

    localities = tuple(
        replace(locality, endpoints=tuple(each for endpoint in locality.endpoints for each in found(endpoint)))
        for locality in assignment.localities
    )
    return replace(assignment, localities=localities)


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


class Lookup:
    """One name: its addresses, and when it is looked up next.

    Attributes:
        addresses: the last answer; a failure keeps it.
        settled: whether there was an answer or a failure since look-ups began.
        trouble: why the last look-up failed, empty when it did not.
        due: clock seconds of the next, None while one is under way.
    """

    __slots__ = ("_failures", "addresses", "due", "settled", "trouble")

    def __init__(self, now: float) -> None:
        self.addresses: tuple[str, ...] = ()
        self.settled = False
        self.trouble = ""
        self.due: float | None = now
        self._failures = 0

    def answered(self, dns: Dns, addresses: Sequence[str], ttl: float | None, now: float, chance: Randomness) -> bool:
        """Take an answer, which may be that there is no address; returns whether the addresses are others."""
        wait = ttl if ttl and dns.respect_ttl else dns.refresh  # as in Envoy, a TTL of 0 tells nothing
        self.due = now + wait + chance.random() * dns.jitter
        self.settled, self.trouble, self._failures = True, "", 0
        changed, self.addresses = tuple(addresses) != self.addresses, tuple(addresses)
        return changed

    def failed(self, dns: Dns, why: str, now: float, chance: Randomness) -> None:
        """Take a failure: the last addresses stay."""
        wait = dns.refresh
        if dns.failure_base:
            # As its back-off between retries: uniformly below base · 2^n, at most the maximum.
            bound = min(dns.failure_base * 2.0 ** min(self._failures, 32), dns.failure_max)
            wait = max(chance.random() * bound, 0.001)
        self.due = now + wait
        self.settled, self.trouble = True, why
        self._failures += 1


class Names:
    """The names of one cluster. Not thread-safe: its keeper owns it.

    Attributes:
        lookups: by name.
    """

    def __init__(self) -> None:
        self.lookups: dict[str, Lookup] = {}

    def configure(self, names: Collection[str], now: float) -> None:
        """Take the names of a new configuration; those that stay keep their addresses."""
        self.lookups = {name: self.lookups.get(name) or Lookup(now) for name in sorted(names)}

    def restart(self, now: float) -> None:
        """Begin anew after a rest: every name is due and nothing is settled; the last addresses stay."""
        for lookup in self.lookups.values():
            lookup.due, lookup.settled = now, False

    def take_due(self, now: float) -> list[str]:
        """Return the names to look up now; each is under way until it is answered or has failed."""
        due = [name for name, lookup in self.lookups.items() if lookup.due is not None and lookup.due <= now]
        for name in due:
            self.lookups[name].due = None
        return due

    @property
    def next_due(self) -> float | None:
        """Clock seconds of the next look-up that is not under way."""
        return min((lookup.due for lookup in self.lookups.values() if lookup.due is not None), default=None)

    @property
    def settled(self) -> bool:
        """Whether every name was answered, or failed, once."""
        return all(lookup.settled for lookup in self.lookups.values())

    @property
    def answers(self) -> Answers:
        """The addresses of every name."""
        return {name: lookup.addresses for name, lookup in self.lookups.items()}

    @property
    def trouble(self) -> str:
        """What is wrong with a name that has no address, in words; empty for nothing."""
        for name, lookup in self.lookups.items():
            if not lookup.addresses:
                why = lookup.trouble or ("it has no address" if lookup.settled else "there is no answer yet")
                return f"{name!r} is not resolved: {why}"
        return ""
