"""Which timeouts a call has: of its route, connection manager, cluster, and of the request itself."""

from __future__ import annotations

from meshlib.model.cluster import Cluster
from meshlib.model.filter_chain import HttpConnectionManager
from meshlib.model.route import RouteAction
from meshlib.policy.call import Call
from meshlib.policy.deadlines import (
    Deadlines,
    More,
    as_grpc_timeout,
    grpc_timeout,
    is_grpc_call,
    old_grpc_timeout,
    stream_duration,
)
from meshlib.policy.routing import Choice
from meshlib.policy.steering import EXPECTED_TIMEOUT

_AT_ONCE = 0.005  # seconds; 0.0 would be no timeout at all, and Envoy's timer lets the request out first


def deadlines(call: Call, choice: Choice, action: RouteAction, cluster: Cluster) -> Deadlines:
    """Return the clocks of a call that is about to make its first attempt."""
    destination = choice.destination
    http = destination.http if destination is not None else None
    managed = http is not None and (
        http.max_stream_duration
        or http.respect_expected_timeout
        or (http.stream_idle_timeout and not 0.0 < action.timeout <= http.stream_idle_timeout)
    )
    if not (managed or action.clocked or cluster.max_stream_duration):
        return Deadlines(action, call.clock())
    return Deadlines(action, call.clock(), _more(call, http, action, cluster))


def _more(call: Call, http: HttpConnectionManager | None, action: RouteAction, cluster: Cluster) -> More:
    record = call.record
    upstream = cluster.max_stream_duration if action.upstream_duration is None else action.upstream_duration
    duration, grpc_header = _duration(call, http, action)
    return More(
        record.started,
        route=_route_timeout(call, http, action),
        duration=duration,
        idle=_idle(call, http, action),
        per_try_idle=action.retry.per_try_idle_timeout if action.retry is not None else 0.0,
        upstream_duration=upstream,
        grpc_header=grpc_header,
    )


def _route_timeout(call: Call, http: HttpConnectionManager | None, action: RouteAction) -> float | None:
    """Return what takes the place of the route's timeout, None where nothing does."""
    if http is not None and http.respect_expected_timeout:
        expected = call.view.whole(EXPECTED_TIMEOUT)
        if expected is not None:
            return expected / 1000
    old = action.grpc_timeout
    if old is None or old.overruled or not is_grpc_call(call.view, call.record.protocol):
        return None
    return old_grpc_timeout(old, call.view)


def _duration(call: Call, http: HttpConnectionManager | None, action: RouteAction) -> tuple[float, str]:
    """Return the max stream duration, and the ``grpc-timeout`` that tells it upstream."""
    limit, manager = action.stream_duration, http.max_stream_duration if http is not None else 0.0
    if call.record.protocol == "grpc" and limit is not None and limit.grpc_header_max is not None:
        return limit.grpc_header_max, ""  # gRFC A31: it hides the other; grpc itself keeps the application's deadline
    seconds = stream_duration(limit, manager, grpc_timeout(call.view))
    if seconds is None:
        return 0.0, ""
    told = ""
    if limit is not None and is_grpc_call(call.view, call.record.protocol):  # measured: not for the manager's own
        told = as_grpc_timeout(seconds)
    return max(seconds, _AT_ONCE), told


def _idle(call: Call, http: HttpConnectionManager | None, action: RouteAction) -> float:
    if call.record.protocol == "grpc":
        return 0.0  # the messages of a gRPC stream are read by grpc itself
    if action.idle_timeout is not None:
        return action.idle_timeout
    return http.stream_idle_timeout if http is not None else 0.0
