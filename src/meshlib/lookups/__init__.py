"""Looking host names up: the system's resolver in threads of its own, and TTLs from the nameservers."""

from __future__ import annotations

from meshlib.lookups.resolver import Answer, Resolver, system_resolver
from meshlib.lookups.threads import Lookups

__all__ = ["Answer", "Lookups", "Resolver", "system_resolver"]
