"""Host names: short forms, wildcards, and the names one service answers to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def qualify(host: str, namespace: str, domain: str) -> str:
    """Return the full name of a host written in a resource of ``namespace``.

    Only a name without a dot is short, as in Istio: ``catalog.shop`` is taken as it stands.
    """
    return host if "." in host or host == "*" else f"{host}.{namespace}.svc.{domain}"


def matches(pattern: str, host: str) -> bool:
    """Tell whether ``pattern`` (a host, ``*`` or ``*.suffix``) covers ``host``, itself maybe a wildcard."""
    if pattern == "*" or pattern == host:
        return True
    if pattern.startswith("*"):
        return host.removeprefix("*").endswith(pattern[1:])
    return False


def meet(one: str, other: str) -> str | None:
    """Return the narrower of two host patterns that overlap, else None."""
    if matches(one, other):
        return other
    return one if matches(other, one) else None


def domains(host: str, namespace: str, domain: str) -> list[str]:
    """Return the names under which a client of ``namespace`` may ask for ``host``, in istiod's order."""
    names = [host, f"{host}."] if host != "*" else ["*"]
    suffix = f".svc.{domain}"
    if not host.endswith(suffix):
        return names
    short, _, owner = host.removesuffix(suffix).rpartition(".")
    if not short:
        return names
    if owner == namespace:
        return [*names, short, f"{short}.{owner}.svc", f"{short}.{owner}"]
    return [*names, f"{short}.{owner}", f"{short}.{owner}.svc"]


def answered(service_host: str, aliases: Iterable[str], namespace: str, domain: str, *, headless: bool) -> list[str]:
    """Return all names of a service: its own, those that stand for it, and those of a headless one's Pods."""
    names = [name for host in (service_host, *aliases) for name in domains(host, namespace, domain)]
    return [*names, *(f"*.{name}" for name in names)] if headless else names


class Patterns(Generic[T]):
    """Values under host patterns, found by the narrowest pattern that covers a host.

    Filled once by one thread, then only read.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[T]] = {}
        self._wildcards: list[str] = []

    def add(self, pattern: str, value: T) -> None:
        """Put ``value`` behind those that the pattern has."""
        if pattern not in self._values and pattern.startswith("*"):
            self._wildcards.append(pattern)
            self._wildcards.sort(key=len, reverse=True)
        self._values.setdefault(pattern, []).append(value)

    def find(self, host: str) -> list[T]:
        """Return the values of the host itself, else of the longest wildcard over it, else none."""
        if host in self._values:
            return self._values[host]
        best = next((pattern for pattern in self._wildcards if matches(pattern, host)), None)
        return [] if best is None else self._values[best]
