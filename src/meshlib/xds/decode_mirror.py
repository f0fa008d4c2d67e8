"""Request mirroring and internal redirects of routes."""

from __future__ import annotations

from typing import Any

from meshlib.model.headers import HeaderMutations
from meshlib.model.traffic import InternalRedirects, MirrorPolicy
from meshlib.xds.decode_headers import each_step
from meshlib.xds.decode_values import any_type, fraction, number, unpack
from meshlib.xds.protos import allow_listed_routes_pb2, previous_routes_pb2, safe_cross_scheme_pb2
from meshlib.xds.scope import Scope

# InternalRedirectPolicy.redirect_response_codes: "Only 301, 302, 303, 307 and 308 are valid values. Any other codes
# will be ignored."
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ALLOW_LISTED = allow_listed_routes_pb2.AllowListedRoutesConfig.DESCRIPTOR.full_name
_PREVIOUS = previous_routes_pb2.PreviousRoutesConfig.DESCRIPTOR.full_name
_SAFE = safe_cross_scheme_pb2.SafeCrossSchemeConfig.DESCRIPTOR.full_name


def mirror_policies(scope: Scope, level: Any) -> tuple[MirrorPolicy, ...]:
    """Return the ``request_mirror_policies`` of one level."""
    policies = level.request_mirror_policies
    return tuple(_mirror(scope.at("request_mirror_policies", i), policy) for i, policy in enumerate(policies))


def _mirror(scope: Scope, policy: Any) -> MirrorPolicy:
    scope.audit(policy)
    if policy.cluster and policy.cluster_header:
        scope.fault("cluster", "cannot go with cluster_header")
    elif not policy.cluster and not policy.cluster_header:
        scope.fault("cluster", "is missing, and so is cluster_header")
    if any(char in policy.cluster_header for char in "\0\r\n"):
        scope.fault("cluster_header", f"{policy.cluster_header!r} is not the name of a header")
    share = 100.0
    if policy.HasField("runtime_fraction"):
        place = scope.at("runtime_fraction")
        if not policy.runtime_fraction.HasField("default_value"):
            place.fault("default_value", "is missing")
        share = fraction(place, policy.runtime_fraction, "default_value")
    return MirrorPolicy(
        cluster=policy.cluster,
        header=policy.cluster_header.lower(),
        percentage=share,
        suffix=not policy.disable_shadow_host_suffix_append,
        host_rewrite=policy.host_rewrite_literal,
        request_headers=HeaderMutations(
            tuple(each_step(scope, "request_headers_mutations", policy.request_headers_mutations))
        ),
    )


def internal_redirects(scope: Scope, action: Any) -> InternalRedirects | None:
    """Return the ``internal_redirect_policy`` of a RouteAction, None where redirects are the application's."""
    if not action.HasField("internal_redirect_policy"):
        return None
    policy = action.internal_redirect_policy
    place = scope.at("internal_redirect_policy")
    place.audit(policy)
    codes = frozenset(policy.redirect_response_codes) & _REDIRECTS
    if len(policy.redirect_response_codes) > 5:
        place.fault("redirect_response_codes", "has more than 5 codes")
    for i, name in enumerate(policy.response_headers_to_copy):
        if not name or name.startswith(":") or name.lower() == "host" or any(char in name for char in "\0\r\n"):
            place.fault(f"response_headers_to_copy[{i}]", f"{name!r} is not a header that can be copied")
    if len(set(policy.response_headers_to_copy)) < len(policy.response_headers_to_copy):
        place.fault("response_headers_to_copy", "names a header twice")
    allowed: list[frozenset[str]] = []
    kinds = set()
    for i, predicate in enumerate(policy.predicates):
        kind = any_type(predicate.typed_config)
        kinds.add(kind)
        if kind == _ALLOW_LISTED:
            config_type = allow_listed_routes_pb2.AllowListedRoutesConfig
            config = unpack(place.at("predicates", i), predicate.typed_config, "typed_config", config_type)
            if config is not None:
                place.at("predicates", i).at("typed_config").audit(config)
                allowed.append(frozenset(config.allowed_route_names))
        elif kind not in (_PREVIOUS, _SAFE):
            place.at("predicates", i).fault("typed_config", f"{kind or predicate.name!r} is no predicate known here")
    return InternalRedirects(
        codes=codes if policy.redirect_response_codes else frozenset({302}),
        limit=number(place, policy, "max_internal_redirects", 1),
        cross_scheme=policy.allow_cross_scheme_redirect,
        safe_cross_scheme=_SAFE in kinds,
        allowed_routes=tuple(allowed),
        previous_routes=_PREVIOUS in kinds,
        copied=tuple(name.lower() for name in policy.response_headers_to_copy),
    )
