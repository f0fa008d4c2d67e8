"""Hash policies of routes: what of a request finds its endpoint."""

from __future__ import annotations

from typing import Any

from meshlib.model.traffic import CookieToMake, HashOn, HashPolicy
from meshlib.xds.decode_headers import regex_rewrite
from meshlib.xds.decode_values import seconds
from meshlib.xds.scope import Scope

# The field that names what each kind hashes.
_NAMES = {"header": "header_name", "cookie": "name", "query_parameter": "name"}


def hash_policies(scope: Scope, action: Any) -> tuple[HashPolicy, ...]:
    """Return the ``hash_policy`` list of a RouteAction."""
    return tuple(_policy(scope.at("hash_policy", i), policy) for i, policy in enumerate(action.hash_policy))


def _policy(scope: Scope, policy: Any) -> HashPolicy:
    scope.audit(policy)
    kind = policy.WhichOneof("policy_specifier")
    if kind is None:
        scope.fault("", "says nothing to hash")
    elif kind in _NAMES:
        part, field = getattr(policy, kind), _NAMES[kind]
        place = scope.at(kind)
        place.audit(part)
        if not getattr(part, field):
            place.fault(field, "must not be empty")
        name: str = getattr(part, field)
        on = HashOn(kind)
        rewrites = on is HashOn.HEADER and part.HasField("regex_rewrite")
        rewrite = regex_rewrite(place.at("regex_rewrite"), part.regex_rewrite) if rewrites else None
        cookie = _cookie_to_make(place, part) if on is HashOn.COOKIE else None
        return HashPolicy(on, name.lower() if on is HashOn.HEADER else name, policy.terminal, rewrite, cookie)
    return HashPolicy(HashOn.NOTHING, terminal=policy.terminal)


def _cookie_to_make(scope: Scope, cookie: Any) -> CookieToMake | None:
    for i, attribute in enumerate(cookie.attributes):
        scope.at("attributes", i).audit(attribute)
        if not attribute.name:
            scope.at("attributes", i).fault("name", "must not be empty")
    if not cookie.HasField("ttl"):
        return None
    ttl = int(seconds(scope, cookie, "ttl", 0.0))
    return CookieToMake(ttl, cookie.path, tuple((attribute.name, attribute.value) for attribute in cookie.attributes))
