"""Internal redirects: a response that says "elsewhere" is followed here, as ``InternalRedirectPolicy`` says.

The next request is the one that was sent, headers and all, with another URL: it goes through the
whole stack again, faults and limits too, and gets a timeout and attempts of its own. Where the
policy forbids to follow, the application gets the redirect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from meshlib.model.request import RequestView
from meshlib.model.route import RouteAction
from meshlib.model.traffic import InternalRedirects
from meshlib.policy import routing
from meshlib.policy.effects import Attempt, Outcome, Restart
from meshlib.policy.headers import sent_headers
from meshlib.policy.record import RedirectRecord

if TYPE_CHECKING:
    from meshlib.policy.call import Call

ORIGINAL_URL = "x-envoy-original-url"
# Envoy follows absolute URLs only, and leaves the rest of RFC 3986 to the next hop.
_URL = re.compile(r"(https?)://([^/?#\s]+)([^#\s]*)", re.IGNORECASE)
_BODILESS = ("GET", "HEAD")


class _Location(NamedTuple):
    scheme: str
    authority: str
    target: str


def followed(call: Call, policy: InternalRedirects, outcome: Outcome, sent: Attempt) -> Restart | None:
    """Return the request to go on with, None where the response is the application's.

    Args:
        call: the call; its record is told of the hop, and of the route where that was looked for in vain.
        policy: of the route.
        outcome: a response head.
        sent: the attempt that met it.
    """
    if outcome.status not in policy.codes:
        return None
    record, view = call.record, call.view
    location = _parsed(",".join(outcome.values("location")))
    if location is None or (location.scheme != view.scheme and not policy.cross_scheme):
        return None
    if len(record.redirects) >= policy.limit:
        return None
    if not view.replayable:
        record.retry_skipped = "body not replayable"
        return None
    headers = sent_headers(view, sent)
    for name in policy.copied:
        copied = [(name, value) for value in outcome.values(name)]
        headers = [pair for pair in headers if pair[0] != name] + copied
    following = _request(view, location, headers)
    target = routing.choose(call.live.snapshot, following, call.chance)
    if target.route is None or not _accepted(policy, call, view, location, target.route.name):
        _note(call, target)
        return None
    method, body = view.method, True
    if outcome.status == 303 and method not in _BODILESS:  # RFC 9110, 15.4.4
        method, body = "GET", False
        headers = [pair for pair in headers if pair[0] not in ("content-length", "transfer-encoding")]
    url = f"{view.scheme}://{sent.authority}{sent.target}"
    headers = [pair for pair in headers if pair[0] != ORIGINAL_URL] + [(ORIGINAL_URL, url)]
    hop = RedirectRecord(
        url, outcome.status or 0, record.route, record.cluster_name, target.route.name, record.attempts
    )
    record.redirects = (*record.redirects, hop)
    return Restart(outcome, _request(view, location, headers, method), body=body)


def _parsed(location: str) -> _Location | None:
    match = _URL.fullmatch(location.partition("#")[0])
    return _Location(match[1].lower(), match[2].rpartition("@")[2], match[3]) if match else None


def _request(
    view: RequestView, location: _Location, headers: list[tuple[str, str]], method: str | None = None
) -> RequestView:
    """Return the request to a location; it is made where the first was, at the listener of that."""
    hosted = [pair for pair in headers if pair[0] != "host"]
    return RequestView(
        method=method or view.method,
        scheme=location.scheme,
        host=view.host,
        port=view.port,
        authority=location.authority,
        target=location.target,
        headers=[("host", location.authority), *hosted],
        replayable=view.replayable,
        tls=view.tls,
    )


def _accepted(policy: InternalRedirects, call: Call, view: RequestView, location: _Location, target: str) -> bool:
    """Tell whether the predicates take the route ``target``."""
    if policy.safe_cross_scheme and location.scheme == "https" and view.scheme != "https":
        return False
    if any(target not in allowed for allowed in policy.allowed_routes):
        return False
    record = call.record
    before = (hop.target for hop in record.redirects if hop.route == record.route)
    return not (policy.previous_routes and target in before)


def _note(call: Call, target: routing.Choice) -> None:
    """Say of the call what Envoy's access log does: the route that was looked for, in vain or not."""
    record, route = call.record, target.route
    record.route = route.name if route is not None else ""
    record.cluster_name = ""
    if route is not None and isinstance(route.action, RouteAction):
        record.cluster_name = routing.cluster_of(routing.draw_cluster(route.action, call.chance), call.view)
