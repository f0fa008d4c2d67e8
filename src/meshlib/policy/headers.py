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
from meshlib.model.route import Redirect, Route, RouteAction, WeightedCluster
from meshlib.model.template import Metadata
from meshlib.policy import flags
from meshlib.policy.effects import Attempt, Reply
from meshlib.policy.record import CallRecord
from meshlib.policy.routing import Choice, matched_length, redirected_target

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
    "UPSTREAM_CLUSTER": lambda facts: facts.record.cluster_name if facts.record.cluster is not None else None,
    "UPSTREAM_CLUSTER_RAW": lambda facts: facts.record.cluster_name if facts.record.cluster is not None else None,
    "VIRTUAL_CLUSTER_NAME": lambda facts: facts.record.virtual_cluster or None,
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
    told = not suppressed(choice)
    _rewrite_host(facts, action, told=told)
    _rewrite_path(facts, route, action, told=told)
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


def hashed_view(record: CallRecord, choice: Choice, action: RouteAction, drawn: WeightedCluster) -> RequestView:
    """Return the request as hash policies see it: as it goes upstream, mutated and rewritten."""
    view = record.request
    head = request_head(record, choice, action, drawn, (), frozenset())
    if head.facts is None:
        return view
    return view.changed(target=head.target, authority=head.authority, headers=head.facts.headers)


def facts_of(record: CallRecord, choice: Choice, drawn: WeightedCluster | None) -> CallFacts:
    """Return the facts of a call that ends before there is an attempt: past the header_mutation filter, if at all."""
    facts = CallFacts(record, choice=choice)
    if _filtered(choice) and not choice.turned_away:
        sum((level.request for level in _filter_levels(choice, drawn)), NO_MUTATIONS).apply(facts.headers, facts)
    route = choice.route
    if route is not None and isinstance(route.action, Redirect):  # which rewrites the request's own path, too
        target = redirected_target(route.action, route, record.request, facts.target)
        if target != facts.target and not suppressed(choice):
            _set(facts, ORIGINAL_PATH, facts.target)
        facts.target = target
    return facts


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


def _filter_response_mutations(choice: Choice, drawn: WeightedCluster | None) -> HeaderMutations:
    """Return what the header_mutation filter does to responses, also to those the router never sees."""
    return sum((level.response for level in _filter_levels(choice, drawn)), NO_MUTATIONS)


def _routed_mutations(choice: Choice, drawn: WeightedCluster | None) -> HeaderMutations:
    """Return what the router does to the headers of a response: the drawn cluster's mutations, the route's."""
    mutations = choice.route.response_headers if choice.route is not None else NO_MUTATIONS
    return drawn.response_headers + mutations if drawn is not None and drawn.response_headers else mutations


def response_mutations(choice: Choice, drawn: WeightedCluster | None) -> HeaderMutations:
    """Return what happens to the headers of an endpoint's response: the router's mutations, the filter's."""
    mutations = _routed_mutations(choice, drawn)
    return mutations + _filter_response_mutations(choice, drawn) if _filtered(choice) else mutations


def _set(facts: CallFacts, name: str, value: str) -> None:
    facts.headers[:] = [pair for pair in facts.headers if pair[0] != name]
    facts.headers.append((name, value))


def authority_headers(headers: Sequence[Pair], authority: str, *, told: bool, forwarded: bool) -> list[Pair]:
    """Return the headers of a request whose authority is about to be replaced.

    Args:
        headers: as they stand.
        authority: the one that goes.
        told: whether it is told as ``x-envoy-original-host``.
        forwarded: whether it joins those of ``x-forwarded-host``.
    """
    kept = list(headers)
    if told:
        kept = [*(pair for pair in kept if pair[0] != ORIGINAL_HOST), (ORIGINAL_HOST, authority)]
    if forwarded and authority:
        hosts = [value for name, value in kept if name == FORWARDED_HOST]
        before = ",".join(hosts)
        if before.split(",")[-1].strip() != authority:
            kept = [pair for pair in kept if pair[0] != FORWARDED_HOST]
            kept.append((FORWARDED_HOST, f"{before},{authority}" if before else authority))
    return kept


def _rewrite_host(facts: CallFacts, action: RouteAction, *, told: bool) -> None:
    host: str | None = action.host_rewrite
    if not host and action.host_rewrite_header:
        host = facts.request_header(action.host_rewrite_header)
    elif not host and action.host_rewrite_path_regex is not None:
        host = action.host_rewrite_path_regex.replace(facts.target.partition("?")[0])
    elif not host and action.host_template is not None:
        host = action.host_template.format(facts)
    if host:
        forwarded = action.append_forwarded_host
        facts.headers[:] = authority_headers(facts.headers, facts.authority, told=told, forwarded=forwarded)
        facts.authority = host


def _rewrite_path(facts: CallFacts, route: Route, action: RouteAction, *, told: bool) -> None:
    target = facts.target
    path, mark, query = target.partition("?")
    if action.prefix_rewrite:
        rewritten = action.prefix_rewrite + target[matched_length(route, facts.record.request) :]
    else:
        made = None
        if action.regex_rewrite is not None:
            made = action.regex_rewrite.replace(path)
        elif action.path_rewrite is not None:
            made = action.path_rewrite.format(facts)
        if not made:
            return
        rewritten = made + mark + query
    if told:
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


# What Envoy writes on a local reply only after the router's mutations.
_LATE = frozenset({"content-type", "grpc-status", "grpc-message"})


def edit_reply(
    reply: Reply,
    choice: Choice,
    drawn: WeightedCluster | None,
    facts: CallFacts,
    added: Sequence[Pair] = (),
    *,
    routed: bool = True,
) -> Reply:
    """Mutate the headers of a local reply, in place; its content type stands in where none is set.

    The router's mutations know no status yet, the header_mutation filter's do.

    Args:
        reply: the reply.
        choice: what routing found.
        drawn: the cluster, where one is drawn.
        facts: of the call.
        added: headers to add at the end.
        routed: whether the route's mutations apply.
    """
    if not reply.status:
        return reply
    if routed:
        _edit_routed(reply, choice, drawn, facts)
    if _filtered(choice):
        headers = list(reply.headers)
        facts.response, facts.status = headers, reply.code or reply.status
        _filter_response_mutations(choice, drawn).apply(headers, facts)
        reply.headers = tuple(headers)
    if added:
        reply.headers = (*reply.headers, *added)
    return reply


def _edit_routed(reply: Reply, choice: Choice, drawn: WeightedCluster | None, facts: CallFacts) -> None:
    if suppressed(choice):
        reply.headers = tuple(pair for pair in reply.headers if not pair[0].startswith("x-envoy-"))
    mutated_reply(reply, _routed_mutations(choice, drawn), facts, attempt_count(choice, facts))


def mutated_reply(reply: Reply, mutations: HeaderMutations, facts: CallFacts, counted: Sequence[Pair] = ()) -> Reply:
    """Mutate the headers of a local reply, in place, and add ``counted``."""
    if not mutations and not counted:
        return reply
    headers = [pair for pair in reply.headers if pair[0] not in _LATE]
    late = [pair for pair in reply.headers if pair[0] in _LATE]
    facts.response, facts.dialled = headers, True
    mutations.apply(headers, facts)
    headers += counted
    given = {name for name, _ in headers}
    if any(name == "grpc-status" for name, _ in late):
        headers = [pair for pair in headers if pair[0] not in _LATE]
    else:
        late = [pair for pair in late if pair[0] not in given]
    reply.headers = (*headers, *late)
    return reply


def suppressed(choice: Choice) -> bool:
    """Tell whether the router adds no ``x-envoy-`` headers (``suppress_envoy_headers``)."""
    destination = choice.destination
    return destination is not None and destination.http is not None and destination.http.suppress_envoy_headers


def attempt_count(choice: Choice, facts: CallFacts) -> list[Pair]:
    """Return the header that tells the application how many attempts there were, where it is to be told."""
    host = choice.virtual_host
    if host is None or not host.attempt_count_in_response or facts.record.cluster is None:
        return []
    return [(ATTEMPT_COUNT, str(max(1, len(facts.record.attempts))))]


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
