"""What a route does to a request, as values."""

from __future__ import annotations

from dataclasses import dataclass

from meshlib.model.match import HeaderMatch


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``envoy.config.route.v3.RetryPolicy``; times in seconds.

    Attributes:
        retry_on: conditions, split at commas (``5xx``, ``connect-failure``, …).
        num_retries: retries after the first attempt; Envoy's default 1.
        per_try_timeout: 0 = off; ignored when not below a non-zero route timeout.
        retriable_status_codes: for ``retriable-status-codes``.
        base_interval: back-off base, default 25 ms.
        max_interval: back-off cap, default 10 times the base.
        previous_hosts: whether ``retry_host_predicate`` avoids hosts already tried.
        host_selection_max_attempts: picks before a host already tried is taken, default 1.
    """

    retry_on: frozenset[str] = frozenset()
    num_retries: int = 1
    per_try_timeout: float = 0.0
    retriable_status_codes: frozenset[int] = frozenset()
    base_interval: float = 0.025
    max_interval: float = 0.25
    previous_hosts: bool = False
    host_selection_max_attempts: int = 1


@dataclass(frozen=True, slots=True)
class FaultDelay:
    """Delay ``percentage`` (0–100) of requests by ``seconds``."""

    seconds: float
    percentage: float


@dataclass(frozen=True, slots=True)
class FaultAbort:
    """Answer ``percentage`` (0–100) of requests with ``status``, or with ``grpc_status``."""

    percentage: float
    status: int | None = None
    grpc_status: int | None = None


@dataclass(frozen=True, slots=True)
class FaultInjection:
    """``envoy.extensions.filters.http.fault.v3.HTTPFault``: delay first, then abort.

    Attributes:
        headers: the fault applies only when all of these match.
        upstream_cluster: only for this cluster, when set.
    """

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None
    headers: tuple[HeaderMatch, ...] = ()
    upstream_cluster: str = ""
