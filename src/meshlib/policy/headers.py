"""What a route does to headers, path and host, in Envoy's order.

Request, once a call: the header_mutation filter, the drawn cluster's mutations and host, the route's
levels, then host and path rewrites, which see the mutated headers. Retries send the same again; what tells
attempts apart (attempt count, expected timeout, trace context) is written anew.
Response, the final one and local replies of the router alike: the same order.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Endpoint
from meshlib.model.headers import NO_MUTATIONS, FilterMutations, HeaderMutations, Pair, mutated_query
from meshlib.model.request import RequestView
from meshlib.model.route import Route, RouteAction, WeightedCluster
from meshlib.model.template import Metadata
from meshlib.policy import flags
from meshlib.policy.effects import Attempt, Reply
from meshlib.policy.record import CallRecord
from meshlib.policy.routing import Choice, matched_length

ORIGINAL_HOST = "x-envoy-original-host"
ORIGINAL_PATH = "x-envoy-original-path"
ATTEMPT_COUNT = "x-envoy-attempt-count"
FORWARDED_HOST = "x-forwarded-host"


class CallFacts:
    """What commands (``%REQ(..)%``) read of one call; :class:`meshlib.model.template.Facts`.

    Attributes:
        choice: what routing found, for metadata.
        dialled: whether the endpoint is known; as in Envoy it is not yet when a request's headers are written.
        headers: request headers as they stand, changed in place by mutations.
        authority, target: as they stand.
        response: headers of the response, lower-case names.
        body: of a local reply, as it is without a format.
        status: of an upstream response; as in Envoy 0 before there is one, and for local replies.
    """

    __slots__ = ("authority", "body", "choice", "dialled", "headers", "record", "response", "status", "target")

    def __init__(self, record: CallRecord, headers: Sequence[Pair] | None = None, choice: Choice | None = None) -> None:
        view = record.request
        self.choice = choice
        self.dialled = True
        self.record = record
        self.headers = list(view.headers if headers is None else headers)
        self.authority, self.target = view.authority, view.target
        self.response: Sequence[Pair] = ()
        self.status = 0
        self.body: str | None = None

    def request_header(self, name: str) -> str | None:
        """Return the first value of a request header or pseudo-header."""
        if name[:1] != ":" and name != "host":
            return _first(self.headers, name)
        view = self.record.request
        pseudo = {
            ":method": view.method,
            ":path": self.target,
            ":scheme": view.scheme,
            ":authority": self.authority,
            "host": self.authority,
        }
        return pseudo.get(name)

    def response_header(self, name: str) -> str | None:
        """Return the first value of a response header."""
        return _first(self.response, name)

    def metadata(self, of: str) -> Metadata | None:
        """Return the metadata of a cluster, route, virtual host or upstream host, or what filters made."""
        if of == "DYNAMIC":
            return self.record.metadata
        if of == "CLUSTER":
            return self.record.cluster.metadata if self.record.cluster is not None else None
        if of == "UPSTREAM_HOST":
            endpoint = self.record.endpoint if self.dialled else None
            return endpoint.metadata if endpoint is not None else None
        choice = self.choice or Choice()
        place = {"ROUTE": choice.route, "VIRTUAL_HOST": choice.virtual_host}.get(of)
        return place.metadata if place is not None else None

    def fact(self, command: str) -> str | None:
        """Return the value of a command without arguments."""
        return _FACTS[command](self)


def _first(headers: Sequence[Pair], name: str) -> str | None:
    return next((value for key, value in headers if key == name), None)


def _upstream(facts: CallFacts, part: Callable[[str, str, int], str]) -> str | None:
    endpoint = facts.record.endpoint if facts.dialled else None
    return None if endpoint is None else part(str(endpoint), endpoint.host, endpoint.port)


def _upstream_protocol(facts: CallFacts) -> str | None:
    cluster = facts.record.cluster
    if cluster is None or not facts.dialled or not facts.record.attempts:
        return None
    return "HTTP/2" if cluster.http2 or facts.record.protocol == "grpc" else "HTTP/1.1"


_FACTS: dict[str, Callable[[CallFacts], str | None]] = {
    "ACCESS_LOG_TYPE": lambda _facts: "NotSet",
    "BYTES_RECEIVED": lambda facts: str(facts.record.bytes_sent),
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda _facts: "127.0.0.1",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": lambda _facts: "127.0.0.1",
    "LISTENER_NAME": lambda facts: facts.record.listener or None,
    "QUERY_PARAMS": lambda facts: facts.record.request.query or None,
    "RESPONSE_FLAGS_LONG": lambda facts: flags.long_names(facts.record.flags),
    "UPSTREAM_PROTOCOL": _upstream_protocol,
    "LOCAL_REPLY_BODY": lambda facts: facts.body,
    "HOSTNAME": lambda _facts: socket.gethostname(),
    "PROTOCOL": lambda facts: "HTTP/2" if facts.record.protocol == "grpc" else "HTTP/1.1",
    "RESPONSE_CODE": lambda facts: str(facts.status),
    "RESPONSE_CODE_DETAILS": lambda facts: facts.record.detail or None,
    "RESPONSE_FLAGS": lambda facts: facts.record.response_flags,
    "ROUTE_NAME": lambda facts: facts.record.route or None,
    "UPSTREAM_CLUSTER": lambda facts: facts.record.cluster_name or None,
    "UPSTREAM_CLUSTER_RAW": lambda facts: facts.record.cluster_name or None,
    "UPSTREAM_HOST": lambda facts: _upstream(facts, lambda whole, _host, _port: whole),
    "UPSTREAM_HOST_NAME": lambda facts: _upstream(facts, lambda whole, _host, _port: whole),
    "UPSTREAM_REMOTE_ADDRESS": lambda facts: _upstream(facts, lambda whole, _host, _port: whole),
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda facts: _upstream(facts, lambda _whole, host, _port: host),
    "UPSTREAM_REMOTE_PORT": lambda facts: _upstream(facts, lambda _whole, _host, port: str(port)),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda facts: str(len(facts.record.attempts)),
}


class RequestHead(NamedTuple):
    """The head of a request as it goes upstream.

    Attributes:
        authority, target: rewritten, or the request's own.
        headers: headers to set in place of the request's of these names.
        removed: headers of the request not to send.
        touched: every name that is settled here, whatever else would be set.
        facts: what was read to make it, and is for the response; None where nothing was.
    """

    authority: str
    target: str
    headers: Sequence[Pair] = ()
    removed: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    facts: CallFacts | None = None

    def for_attempt(self, number: int, own: Sequence[Pair], added: Sequence[Pair]) -> list[Pair]:
        """Return the headers to set for one attempt.

        Args:
            number: of the attempt; from the second on, what it says of itself is written anew.
            own: what the attempt says of itself.
            added: what the observer adds.
        """
        if not self.touched:
            return [*added, *own]
        fresh = {name for name, _ in own} if number > 1 else frozenset()
        kept = [pair for pair in (*added, *own) if pair[0] not in self.touched or pair[0] in fresh]
        return [*(pair for pair in self.headers if pair[0] not in fresh), *kept]


def request_head(
    record: CallRecord,
    choice: Choice,
    action: RouteAction,
    drawn: WeightedCluster,
    set_: Sequence[Sequence[Pair]],
    removed: frozenset[str],
) -> RequestHead:
    """Mutate and rewrite a request.

    Args:
        record: of the call.
        choice: what routing found.
        action: of the route.
        drawn: the cluster.
        set_: headers that its first attempt sets already.
        removed: headers that are not sent.
    """
    route, view = choice.route, record.request
    filtered = _filtered(choice)
    if route is None or not (route.rewrites or filtered):
        return RequestHead(view.authority, view.target)
    levels = _filter_levels(choice, drawn) if filtered else []
    mutations = sum((level.request for level in levels), NO_MUTATIONS) + drawn.request_headers
    replaced = removed.union(name for pairs in set_ for name, _ in pairs)
    kept = [pair for pair in view.headers if pair[0] not in replaced]
    facts = CallFacts(record, kept + [pair for pairs in set_ for pair in pairs], choice)
    facts.dialled = False
    before = {name for name, _ in facts.headers}
    mutations.apply(facts.headers, facts)
    if query := [mutation for level in levels for mutation in level.query]:
        facts.target = mutated_query(facts.target, query, facts)
    facts.authority = drawn.host_rewrite or facts.authority
    route.request_headers.apply(facts.headers, facts)
    _rewrite_host(facts, action)
    _rewrite_path(facts, route, action)
    touched = mutations.names | route.request_headers.names | {ORIGINAL_HOST, ORIGINAL_PATH, FORWARDED_HOST}
    touched |= before - {name for name, _ in facts.headers}  # removed by a pattern
    headers = [pair for pair in facts.headers if pair[0] in touched]
    gone = touched - {name for name, _ in headers}
    return RequestHead(facts.authority, facts.target, headers, gone, touched, facts)


def plain(choice: Choice, drawn: WeightedCluster) -> bool:
    """Tell whether neither the request nor the response of a call is changed on its way."""
    route = choice.route
    if route is None or route.rewrites or route.response_headers.steps or drawn.response_headers.steps:
        return False
    return not _filtered(choice)


def _filtered(choice: Choice) -> bool:
    """Tell whether the header_mutation filter is in the chain; per-route mutations need it."""
    destination = choice.destination
    return destination is not None and destination.http is not None and destination.http.header_mutation is not None


def _filter_levels(choice: Choice, drawn: WeightedCluster | None) -> list[FilterMutations]:
    """Return what the header_mutation filter does, in order: its own mutations, then those of the levels."""
    destination = choice.destination
    own = destination.http.header_mutation if destination is not None and destination.http is not None else None
    if own is None:
        return []
    levels = [*(choice.route.filter_mutations if choice.route is not None else ())]
    if drawn is not None and drawn.filter_mutations is not None:
        levels.insert(0, drawn.filter_mutations)
    if levels and levels[0].disabled:
        return []
    if own.most_specific_wins:
        levels.reverse()
    return [own, *levels]


def filter_response_mutations(choice: Choice, drawn: WeightedCluster | None) -> HeaderMutations:
    """Return what the header_mutation filter does to responses, also to those the router never sees."""
    return sum((level.response for level in _filter_levels(choice, drawn)), NO_MUTATIONS)


def response_mutations(choice: Choice, drawn: WeightedCluster | None) -> HeaderMutations:
    """Return what happens to the headers of a response: the drawn cluster's, the route's, the filter's."""
    route = choice.route
    mutations = route.response_headers if route is not None else NO_MUTATIONS
    if drawn is not None and drawn.response_headers:
        mutations = drawn.response_headers + mutations
    return mutations + filter_response_mutations(choice, drawn) if _filtered(choice) else mutations


def _set(facts: CallFacts, name: str, value: str) -> None:
    facts.headers[:] = [pair for pair in facts.headers if pair[0] != name]
    facts.headers.append((name, value))


def _rewrite_host(facts: CallFacts, action: RouteAction) -> None:
    host: str | None = action.host_rewrite
    if not host and action.host_rewrite_header:
        host = facts.request_header(action.host_rewrite_header)
    elif not host and action.host_rewrite_path_regex is not None:
        host = action.host_rewrite_path_regex.replace(facts.target.partition("?")[0])
    if host:
        _set(facts, ORIGINAL_HOST, facts.authority)
        if action.append_forwarded_host:
            _set(facts, FORWARDED_HOST, forwarded_host(facts.headers, facts.authority))
        facts.authority = host


def forwarded_host(headers: Sequence[Pair], host: str) -> str:
    """Return ``x-forwarded-host`` with ``host`` at its end."""
    before = [value for name, value in headers if name == FORWARDED_HOST]
    last = before[-1].rpartition(",")[2].strip() if before else ""
    return ",".join(before if last == host else [*before, host])


def _rewrite_path(facts: CallFacts, route: Route, action: RouteAction) -> None:
    target = facts.target
    path, mark, query = target.partition("?")
    if action.prefix_rewrite:
        rewritten = action.prefix_rewrite + target[matched_length(route, facts.record.request) :]
    elif action.regex_rewrite is not None:
        rewritten = action.regex_rewrite.replace(path) + mark + query
    elif action.path_rewrite is not None and (made := action.path_rewrite.format(facts)):
        rewritten = made + mark + query
    else:
        return
    _set(facts, ORIGINAL_PATH, target)
    facts.target = rewritten


def merged(view: RequestView, set_: Sequence[Pair], removed: frozenset[str]) -> list[Pair]:
    """Return all headers of a request but its Host, with those in place that an attempt sets."""
    gone = removed.union({"host"}, (name for name, _ in set_))
    return [*(pair for pair in view.headers if pair[0] not in gone), *set_]


def sent_headers(view: RequestView, attempt: Attempt) -> list[Pair]:
    """Return all headers that an attempt sent, but its Host."""
    return merged(view, attempt.headers, attempt.removed)


def endpoint_authority(cluster: Cluster, endpoint: Endpoint) -> str:
    """Return the host that ``auto_host_rewrite`` gives an attempt; empty where it gives none."""
    named = cluster.discovery in (Discovery.STRICT_DNS, Discovery.LOGICAL_DNS)
    return endpoint.hostname or (endpoint.address if named else "")


# What Envoy writes on a local reply only after the mutations.
_LATE = frozenset({"content-type", "grpc-status", "grpc-message"})


def edit_reply(reply: Reply, mutations: HeaderMutations, facts: CallFacts, added: Sequence[Pair] = ()) -> Reply:
    """Mutate the headers of a local reply, in place; its content type stands in where none is set.

    Args:
        reply: the reply.
        mutations: what to do to its headers.
        facts: what commands in them read.
        added: headers to add at the end.
    """
    if not reply.status:
        return reply
    if not mutations:
        reply.headers = (*reply.headers, *added)
        return reply
    headers = [pair for pair in reply.headers if pair[0] not in _LATE]
    late = [pair for pair in reply.headers if pair[0] in _LATE]
    facts.response, facts.dialled = headers, True
    mutations.apply(headers, facts)
    given = {name for name, _ in headers}
    if any(name == "grpc-status" for name, _ in late):
        headers = [pair for pair in headers if pair[0] not in _LATE]
    else:
        late = [pair for pair in late if pair[0] not in given]
    reply.headers = (*headers, *late, *added)
    return reply


Edit = Callable[[Sequence[Pair]], list[Pair]]


def response_edit(
    mutations: HeaderMutations, facts: CallFacts, status: int, first: Sequence[Pair], added: Sequence[Pair]
) -> Edit:
    """Return the function that changes the headers (lower-case names) of the final response.

    It sets ``first``, makes the mutations, and adds ``added``.
    """
    names = {name for name, _ in first} - {"set-cookie"}

    def edit(headers: Sequence[Pair]) -> list[Pair]:
        edited = [*(pair for pair in headers if pair[0] not in names), *first]
        facts.response, facts.status, facts.dialled = edited, status, True
        mutations.apply(edited, facts)
        return [*edited, *added]

    return edit
