"""Fault injection: the fault filter's configuration, and what overrides it per route."""

from __future__ import annotations

from typing import Any

from meshlib.model.traffic import FaultAbort, FaultDelay, FaultInjection, FaultRate
from meshlib.xds.decode_filters import ROUTE_SETTINGS
from meshlib.xds.decode_headers import HEADER_MUTATION_PER_ROUTE
from meshlib.xds.decode_matchers import header_match
from meshlib.xds.decode_values import any_type, fraction, fraction_unit, seconds, unpack
from meshlib.xds.fields import NOT_HONOURED
from meshlib.xds.filters import IRRELEVANT_FILTER_CONFIGS
from meshlib.xds.protos import fault_pb2, route_components_pb2
from meshlib.xds.scope import Scope

HTTP_FAULT = fault_pb2.HTTPFault.DESCRIPTOR.full_name
_FILTER_CONFIG = route_components_pb2.FilterConfig.DESCRIPTOR.full_name
_ELSEWHERE = ROUTE_SETTINGS | {HEADER_MUTATION_PER_ROUTE}  # decoded elsewhere
# What a filter that is disabled without a configuration must be, by its customary name.
_DEFAULT_TYPES = {
    "envoy.filters.http.fault": HTTP_FAULT,
}


def fault_injection(scope: Scope, fault: Any) -> FaultInjection:
    """Return an ``HTTPFault``. An empty one is a value too: it switches off what it overrides."""
    scope.audit(fault)
    delay = _delay(scope.at("delay"), fault.delay) if fault.HasField("delay") else None
    abort = _abort(scope.at("abort"), fault.abort) if fault.HasField("abort") else None
    headers = tuple(header_match(scope.at("headers", i), m) for i, m in enumerate(fault.headers))
    return FaultInjection(
        delay,
        abort,
        headers,
        fault.upstream_cluster,
        frozenset(fault.downstream_nodes),
        fault.max_active_faults.value if fault.HasField("max_active_faults") else None,
        _rate(scope.at("response_rate_limit"), fault.response_rate_limit)
        if fault.HasField("response_rate_limit")
        else None,
    )


def _delay(scope: Scope, delay: Any) -> FaultDelay | None:
    scope.audit(delay)
    kind = delay.WhichOneof("fault_delay_secifier")  # spelt so in the proto
    if kind == "header_delay":
        share = fraction(scope, delay, "percentage")
        return FaultDelay(0.0, share, by_header=True, unit=fraction_unit(delay.percentage))
    if kind is None:
        scope.fault("fixed_delay", "is missing")
        return None
    return FaultDelay(seconds(scope, delay, kind, 0.0, positive=True), fraction(scope, delay, "percentage"))


def _rate(scope: Scope, limit: Any) -> FaultRate | None:
    scope.audit(limit)
    kind = limit.WhichOneof("limit_type")
    percentage = fraction(scope, limit, "percentage")
    if kind == "header_limit":
        return FaultRate(0, percentage, by_header=True, unit=fraction_unit(limit.percentage))
    if kind is None:
        scope.fault("fixed_limit", "is missing, and so is header_limit")
    elif not limit.fixed_limit.limit_kbps:
        scope.at("fixed_limit").fault("limit_kbps", "must be at least 1")
    return FaultRate(limit.fixed_limit.limit_kbps, percentage)


def _abort(scope: Scope, abort: Any) -> FaultAbort | None:
    scope.audit(abort)
    kind = abort.WhichOneof("error_type")
    percentage = fraction(scope, abort, "percentage")
    if kind == "header_abort":
        return FaultAbort(percentage, by_header=True, unit=fraction_unit(abort.percentage))
    if kind == "grpc_status":
        return FaultAbort(percentage, grpc_status=abort.grpc_status)
    if kind is None:
        scope.fault("http_status", "is missing, and so is grpc_status")
    elif not 200 <= abort.http_status < 600:
        scope.fault(kind, f"{abort.http_status} is not an HTTP status of 200 to 599")
    return FaultAbort(percentage, status=abort.http_status)


def per_filter_fault(scope: Scope, configs: Any) -> FaultInjection | None:
    """Return the fault in a ``typed_per_filter_config`` map, None when it sets none.

    Found by type, since RDS does not know what the filter is called in the listener. Entries of
    filters that are not run are noted.
    """
    found = None
    for name in sorted(configs):
        packed, place, disabled = configs[name], scope.at("typed_per_filter_config", name), False
        if any_type(packed) == _FILTER_CONFIG:
            wrapper = unpack(place, packed, "", route_components_pb2.FilterConfig)
            if wrapper is None:
                continue
            place.audit(wrapper)
            packed, disabled, place = wrapper.config, wrapper.disabled, place.at("config")
        kind = any_type(packed)
        if HTTP_FAULT in (kind, _DEFAULT_TYPES.get(name) if disabled else ""):
            fault = None if disabled else unpack(place, packed, "", fault_pb2.HTTPFault)
            found = FaultInjection() if fault is None else fault_injection(place, fault)
        elif not disabled and kind not in IRRELEVANT_FILTER_CONFIGS and kind not in _ELSEWHERE:
            place.note("", f"{kind or 'the filter configuration'} {NOT_HONOURED}")
    return found
