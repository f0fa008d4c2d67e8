"""Retry policies as istiod writes them."""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2

from meshlib.controlplane.documents.virtual_service import Retries
from meshlib.controlplane.protobuf import duration, pack

# Istio's default for every HTTP route that says nothing about retries.
_DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_DEFAULT_RETRIES = 2
_HOST_SELECTION_ATTEMPTS = 5


def policy(retries: Retries | None, *, sticky: bool = False) -> Any | None:
    """Return the RetryPolicy for what a VirtualService says, None for no retries at all.

    ``sticky``: the request is hashed to a host, and a retry stays there unless the VirtualService says otherwise.
    """
    attempts = _DEFAULT_RETRIES if retries is None else retries.attempts
    if attempts == 0:
        return None
    message = route_pb2.RetryPolicy(
        retry_on=_DEFAULT_RETRY_ON, host_selection_retry_max_attempts=_HOST_SELECTION_ATTEMPTS
    )
    message.num_retries.value = attempts
    moves = not sticky
    if retries is not None and retries.at.has("retryIgnorePreviousHosts"):
        moves = retries.retry_ignore_previous_hosts
    if moves:
        message.retry_host_predicate.add(
            name="envoy.retry_host_predicates.previous_hosts",
            typed_config=pack(previous_hosts_pb2.PreviousHostsPredicate()),
        )
    if retries is not None:
        _refine(message, retries)
    return message


def _refine(message: Any, retries: Retries) -> None:
    if retries.retry_on:
        parts = [part.strip() for part in retries.retry_on.split(",") if part.strip()]
        codes = [int(part) for part in parts if part.isdigit()]
        conditions = [part for part in parts if not part.isdigit()]
        if codes and "retriable-status-codes" not in conditions:
            conditions.append("retriable-status-codes")
        message.retry_on = ",".join(conditions)
        message.retriable_status_codes.extend(codes)
    if retries.per_try_timeout is not None:
        message.per_try_timeout.CopyFrom(duration(retries.per_try_timeout))
    if retries.backoff is not None:
        message.retry_back_off.base_interval.CopyFrom(duration(retries.backoff))
    if retries.retry_remote_localities:
        message.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        config = previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=2)
        message.retry_priority.typed_config.CopyFrom(pack(config))
