"""What a route does to a request, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshlib.model.headers import NO_MUTATIONS, HeaderMutations
from meshlib.model.match import HeaderMatch
from meshlib.model.rewrite import RegexRewrite


@dataclass(frozen=True, slots=True)
class ResetHeader:
    """``RetryPolicy.ResetHeader``: a response header that says when to come again.

    Attributes:
        name: the header, in lower case.
        timestamp: whether it holds a Unix timestamp (``UNIX_TIMESTAMP``), not seconds from now.
    """

    name: str
    timestamp: bool = False


@dataclass(frozen=True, slots=True)
class RateLimitedBackOff:
    """``RetryPolicy.RateLimitedRetryBackOff``: the response sets the back-off.

    Attributes:
        headers: asked in order; the first that holds a usable value counts.
        max_interval: seconds; a header that asks for longer is passed over.
    """

    headers: tuple[ResetHeader, ...]
    max_interval: float = 300.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``envoy.config.route.v3.RetryPolicy``; times in seconds.

    Attributes:
        retry_on: conditions, split at commas (``5xx``, ``connect-failure``, …).
        num_retries: retries after the first attempt; Envoy's default 1.
        per_try_timeout: 0 = off; ignored when not below a non-zero route timeout.
        per_try_idle_timeout: seconds that an attempt may be silent, 0 = off.
        retriable_status_codes: for ``retriable-status-codes``.
        retriable_headers: for ``retriable-headers``: response headers, any of which makes a response retriable.
        retriable_request_headers: without a request header that one of these matches, nothing is retried.
        base_interval: back-off base, default 25 ms.
        max_interval: back-off cap, default 10 times the base.
        rate_limited: the back-off that response headers ask for, where they do.
        previous_hosts: whether ``retry_host_predicate`` avoids hosts already tried.
        omit_canary_hosts: whether it avoids endpoints whose ``envoy.lb`` metadata says ``canary``.
        omit_host_metadata: it avoids endpoints whose ``envoy.lb`` metadata has all of one of these.
        host_selection_max_attempts: picks before a host already tried is taken, default 1.
        previous_priorities: ``update_frequency``: after so many attempts each, priorities that were tried are left
            out; 0 = off.
    """

    retry_on: frozenset[str] = frozenset()
    num_retries: int = 1
    per_try_timeout: float = 0.0
    retriable_status_codes: frozenset[int] = frozenset()
    retriable_headers: tuple[HeaderMatch, ...] = ()
    retriable_request_headers: tuple[HeaderMatch, ...] = ()
    base_interval: float = 0.025
    max_interval: float = 0.25
    rate_limited: RateLimitedBackOff | None = None
    previous_hosts: bool = False
    omit_canary_hosts: bool = False
    omit_host_metadata: tuple[tuple[tuple[str, object], ...], ...] = ()
    host_selection_max_attempts: int = 1
    per_try_idle_timeout: float = 0.0
    previous_priorities: int = 0


@dataclass(frozen=True, slots=True)
class FaultDelay:
    """Delay ``percentage`` (0–100) of requests by ``seconds``.

    Attributes:
        by_header: the request says how long (``header_delay``), and may lower the percentage.
        unit: percent that 1 in the request's header of the percentage stands for.
    """

    seconds: float
    percentage: float
    by_header: bool = False
    unit: float = 1.0


@dataclass(frozen=True, slots=True)
class FaultAbort:
    """Answer ``percentage`` (0–100) of requests with ``status``, or with ``grpc_status``.

    Attributes:
        by_header: the request says with which (``header_abort``), and may lower the percentage.
        unit: percent that 1 in the request's header of the percentage stands for.
    """

    percentage: float
    status: int | None = None
    grpc_status: int | None = None
    by_header: bool = False
    unit: float = 1.0


@dataclass(frozen=True, slots=True)
class FaultRate:
    """Slow the response bodies of ``percentage`` (0–100) of requests down to ``kbps`` KiB a second.

    Attributes:
        by_header: the request says to what (``header_limit``), and may lower the percentage.
        unit: percent that 1 in the request's header of the percentage stands for.
    """

    kbps: int
    percentage: float
    by_header: bool = False
    unit: float = 1.0


@dataclass(frozen=True, slots=True)
class FaultInjection:
    """``envoy.extensions.filters.http.fault.v3.HTTPFault``: delay first, then abort.

    Attributes:
        headers: the fault applies only when all of these match.
        upstream_cluster: only for this cluster, when set.
        downstream_nodes: only for calls whose ``x-envoy-downstream-service-node`` is one of these, when set.
        max_active: faulty calls at once (``max_active_faults``), None = no limit.
        rate: slows responses down (``response_rate_limit``).
    """

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None
    headers: tuple[HeaderMatch, ...] = ()
    upstream_cluster: str = ""
    downstream_nodes: frozenset[str] = frozenset()
    max_active: int | None = None
    rate: FaultRate | None = None


class HashOn(Enum):
    """What of a request is hashed. A call from the process has no source address: NOTHING."""

    HEADER = "header"
    COOKIE = "cookie"
    QUERY_PARAMETER = "query_parameter"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class CookieToMake:
    """``HashPolicy.Cookie`` with a ``ttl``: what is set for a request that lacks it.

    Attributes:
        ttl: seconds; 0 makes a session cookie.
        path: of the cookie, empty for none.
        attributes: names and values, an empty value for a flag.
    """

    ttl: int
    path: str = ""
    attributes: tuple[tuple[str, str], ...] = ()

    def header(self, name: str, value: str) -> str:
        """Return the ``set-cookie`` header, as Envoy writes it."""
        parts = [f'{name}="{value}"']
        if self.ttl:
            parts.append(f"Max-Age={self.ttl}")
        if self.path:
            parts.append(f"Path={self.path}")
        parts += [f"{key}={text}" if text else key for key, text in self.attributes]
        return "; ".join([*parts, "HttpOnly"])


@dataclass(frozen=True, slots=True)
class HashPolicy:
    """``RouteAction.HashPolicy``: hash a part of the request to find its endpoint.

    Attributes:
        on: which part.
        name: of the header (lower case), cookie or query parameter.
        terminal: whether the policies behind it are passed over once there is a hash.
        rewrite: changes a header's value before it is hashed.
        cookie: makes a cookie for a request without it, so that the next one finds the same endpoint.
    """

    on: HashOn
    name: str = ""
    terminal: bool = False
    rewrite: RegexRewrite | None = None
    cookie: CookieToMake | None = None

    def rewritten(self, value: str) -> str:
        """Return what is hashed of a header's value."""
        return self.rewrite.replace(value) if self.rewrite else value


@dataclass(frozen=True, slots=True)
class InternalRedirects:
    """``InternalRedirectPolicy``: redirects that are followed here and never shown to the application.

    Attributes:
        codes: the statuses that are followed, of 301, 302, 303, 307 and 308; Envoy's default 302.
        limit: how many a call follows (``max_internal_redirects``); Envoy's default 1.
        cross_scheme: whether ``https://`` may follow from ``http://`` and the other way round.
        safe_cross_scheme: whether a predicate forbids ``https://`` to follow from ``http://``.
        allowed_routes: the names of routes that may be led to, of each ``allow_listed_routes`` predicate.
        previous_routes: whether a predicate forbids a route to lead to the same route twice.
        copied: response headers, in lower case, that the next request takes over.
    """

    codes: frozenset[int] = frozenset({302})
    limit: int = 1
    cross_scheme: bool = False
    safe_cross_scheme: bool = False
    allowed_routes: tuple[frozenset[str], ...] = ()
    previous_routes: bool = False
    copied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MirrorPolicy:
    """``RouteAction.RequestMirrorPolicy``: send a copy of a request to another cluster, and forget it.

    Attributes:
        cluster: where to.
        header: the request header that names the cluster in its place (``cluster_header``).
        percentage: 0 to 100, of requests that are mirrored.
        suffix: whether ``-shadow`` is appended to the host, before its port.
        host_rewrite: the host of the copy, as it is, in place of that.
        request_headers: made to the headers of the copy alone.
    """

    cluster: str = ""
    header: str = ""
    percentage: float = 100.0
    suffix: bool = True
    host_rewrite: str = ""
    request_headers: HeaderMutations = NO_MUTATIONS
