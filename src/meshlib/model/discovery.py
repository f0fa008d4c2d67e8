"""Where the endpoints of a cluster come from, and what is said of looking names up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address


class Discovery(Enum):
    """``Cluster.DiscoveryType``, and the custom ``cluster_type`` that is not one of them."""

    STATIC = "STATIC"
    STRICT_DNS = "STRICT_DNS"
    LOGICAL_DNS = "LOGICAL_DNS"
    EDS = "EDS"
    ORIGINAL_DST = "ORIGINAL_DST"
    AGGREGATE = "AGGREGATE"  # envoy.clusters.aggregate

    @property
    def by_name(self) -> bool:
        """Whether endpoints are given by names that have to be looked up."""
        return self in (Discovery.STRICT_DNS, Discovery.LOGICAL_DNS)

    @property
    def provides_balancing(self) -> bool:
        """Whether the cluster picks endpoints its own way (``lb_policy`` CLUSTER_PROVIDED)."""
        return self in (Discovery.ORIGINAL_DST, Discovery.AGGREGATE)


class LookupFamily(Enum):
    """``DnsLookupFamily``: which addresses of a name are used."""

    AUTO = "AUTO"  # IPv6 addresses, IPv4 ones where there are none
    V4_ONLY = "V4_ONLY"
    V6_ONLY = "V6_ONLY"
    V4_PREFERRED = "V4_PREFERRED"  # the other way round
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Dns:
    """How the names of a STRICT_DNS or LOGICAL_DNS cluster are looked up; times in seconds.

    Attributes:
        family: which addresses are used.
        refresh: ``dns_refresh_rate``: a name is looked up again so long after an answer.
        failure_base: ``dns_failure_refresh_rate.base_interval``: the first look-up after a failed
            one comes within so long, drawn at random; 0.0: after ``refresh``, like any other.
        failure_max: ``max_interval``: what the doubling of the former ends at.
        jitter: ``dns_jitter``: up to so much later, drawn at random.
        respect_ttl: whether an answer's TTL stands in for ``refresh``, where the resolver tells it.
        wait_for_warm: ``wait_for_warm_on_init``: whether calls wait for the first answer.
    """

    family: LookupFamily = LookupFamily.AUTO
    refresh: float = 5.0
    failure_base: float = 0.0
    failure_max: float = 0.0
    jitter: float = 0.0
    respect_ttl: bool = False
    wait_for_warm: bool = True


@dataclass(frozen=True, slots=True)
class OriginalDst:
    """``Cluster.OriginalDstLbConfig``: what stands in for the address that the caller named.

    Attributes:
        header: the request header that names ``ip:port``, empty for none.
        port: the port to connect to, None leaves it.
    """

    header: str = ""
    port: int | None = None


def address_in(text: str | None) -> tuple[str, int] | None:
    """Return the address that ``ip:port`` or ``[ip]:port`` stands for, None for anything else."""
    host, colon, port = (text or "").strip().rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        return None
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return None
    return (str(address), int(port)) if (address.version == 6) is bracketed else None
