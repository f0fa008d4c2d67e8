"""HTTP filters that are run here besides faults and header mutations: rate limits, buffer, sessions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from meshlib.model.headers import NO_MUTATIONS, HeaderMutations
from meshlib.model.match import HeaderMatch, QueryMatch
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.traffic import CookieToMake


class Disabled(Enum):
    """A filter that is left out (``FilterConfig.disabled``), here or as long as no route says otherwise."""

    HERE = "disabled"


class Faults(Enum):
    """Stands where the fault filter is in its chain."""

    HERE = "fault"


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """``type.v3.TokenBucket``: full at first, and filled continuously, as Envoy does since 1.32.

    Attributes:
        max_tokens: how many it holds.
        rate: tokens a second.
    """

    max_tokens: int
    rate: float


class From(Enum):
    """Where the value of a descriptor's entry comes from."""

    CONSTANT = "generic_key"
    HEADER = "request_headers"
    QUERY = "query_parameters"
    HEADERS_MATCH = "header_value_match"
    QUERY_MATCH = "query_parameter_value_match"
    ADDRESS = "remote_address"
    CLUSTER = "destination_cluster"


@dataclass(frozen=True, slots=True)
class DescriptorAction:
    """``RateLimit.Action``: one entry of a descriptor.

    Attributes:
        source: where its value comes from.
        key: of the entry.
        value: of the entry, where the request does not give it.
        name: of the header or query parameter.
        skip_if_absent: leave the entry out where the request lacks it; else there is no descriptor.
        expect: whether the matchers must match, or must not.
        headers, query: matchers, all of which count.
    """

    source: From
    key: str
    value: str = ""
    name: str = ""
    skip_if_absent: bool = False
    expect: bool = True
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class RateLimitRule:
    """``route.v3.RateLimit``: makes one descriptor, or none.

    Attributes:
        actions: make its entries.
        stage: which filters look at it.
    """

    actions: tuple[DescriptorAction, ...]
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Descriptor:
    """``LocalRateLimitDescriptor``: requests with these entries have a bucket of their own.

    Attributes:
        entries: (key, value); an empty value stands for any, each with a bucket of its own.
        bucket: their limit.
    """

    entries: tuple[tuple[str, str], ...]
    bucket: TokenBucket


class VirtualHostLimits(Enum):
    """``VhRateLimitsOptions``: when the ``rate_limits`` of the virtual host count."""

    OVERRIDE = 0  # where the route has none
    INCLUDE = 1
    IGNORE = 2


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LocalRateLimit:
    """``local_ratelimit.v3.LocalRateLimit``.

    Attributes:
        place: where it is configured: each has buckets of its own.
        status: of the reply.
        bucket: for requests without a descriptor, and by default for the others as well.
        enabled, enforced: percent of requests, 0 to 100.
        response_headers: added to the reply.
        request_headers: added to requests that are over the limit and go on.
        descriptors: with buckets of their own.
        rules: make descriptors, in place of the route's and virtual host's; empty for those.
        stage: of the route's rules that count.
        virtual_host: which rules of the virtual host count.
        tells: whether responses get ``x-ratelimit-*`` headers.
        always_default: whether ``bucket`` counts requests with a descriptor as well.
        resource_exhausted: whether gRPC callers get RESOURCE_EXHAUSTED, not UNAVAILABLE.
        most_values: buckets of descriptors that stand for any value.
    """

    place: str
    status: int = 429
    bucket: TokenBucket | None = None
    enabled: float = 0.0
    enforced: float = 0.0
    response_headers: HeaderMutations = NO_MUTATIONS
    request_headers: HeaderMutations = NO_MUTATIONS
    descriptors: tuple[Descriptor, ...] = ()
    rules: tuple[RateLimitRule, ...] = ()
    stage: int = 0
    virtual_host: VirtualHostLimits = VirtualHostLimits.OVERRIDE
    tells: bool = False
    always_default: bool = True
    resource_exhausted: bool = False
    most_values: int = 20


@dataclass(frozen=True, slots=True)
class BufferLimit:
    """``buffer.v3.Buffer``: a request with more bytes than these is answered 413."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class StatefulSession:
    """``stateful_session.v3.StatefulSession``: requests of a session go to the endpoint that answered its first.

    Attributes:
        name: of the cookie, or of the header.
        cookie: how the cookie is made; None where a header tells the session.
        strict: whether a call fails where its endpoint cannot be used.
    """

    name: str
    cookie: CookieToMake | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class MetadataValue:
    """``header_to_metadata.v3.Config.KeyValuePair``: what becomes of a header's value.

    Attributes:
        namespace, key: where it goes.
        value: in place of the header's.
        rewrite: changes the header's value.
        number: whether it is one (``NUMBER``); what is none is left out.
    """

    namespace: str
    key: str
    value: str = ""
    rewrite: RegexRewrite | None = None
    number: bool = False


@dataclass(frozen=True, slots=True)
class MetadataRule:
    """``header_to_metadata.v3.Config.Rule``.

    Attributes:
        header, cookie: the one it looks at.
        present, missing: what is set where it is there, or is not.
        remove: whether the header is not sent on.
    """

    header: str = ""
    cookie: str = ""
    present: MetadataValue | None = None
    missing: MetadataValue | None = None
    remove: bool = False


@dataclass(frozen=True, slots=True)
class HeaderToMetadata:
    """``header_to_metadata.v3.Config``: makes dynamic metadata of request headers, for subsets and commands."""

    rules: tuple[MetadataRule, ...]


class RouteLimits(NamedTuple):
    """``rate_limits`` of a route.

    Attributes:
        own: the route's.
        host: the virtual host's.
        include: ``include_vh_rate_limits``.
    """

    own: tuple[RateLimitRule, ...]
    host: tuple[RateLimitRule, ...]
    include: bool


NO_LIMITS = RouteLimits((), (), False)
Setting = LocalRateLimit | BufferLimit | StatefulSession | HeaderToMetadata
Settings = tuple[tuple[str, Setting | Disabled], ...]
"""What a route says to filters, by their names in the chain."""
Filters = tuple[tuple[str, Setting | Disabled | Faults], ...]
"""A chain: names and configurations, in order."""
