"""VirtualService: how requests are routed."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane import hosts
from meshlib.controlplane.documents.cors import CorsPolicy
from meshlib.controlplane.documents.destinations import Destination, Host
from meshlib.controlplane.documents.fields import (
    Count,
    Duration,
    Key,
    Labels,
    Message,
    Name,
    Percent,
    Port,
    Regex,
    Share,
    duration,
    integer,
    one_of,
    text,
)
from meshlib.controlplane.documents.l4_routes import L4Match, TCPRoute, TLSMatch, TLSRoute
from meshlib.controlplane.documents.place import Misfit, Place, Report
from meshlib.controlplane.documents.resource import Resource
from meshlib.controlplane.documents.string_match import StringMatch
from meshlib.controlplane.faults import suggestion
from meshlib.model.template import Template

GRPC_STATUS = {
    status: code
    for code, status in enumerate(
        (
            "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
            "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
            "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
            "UNAUTHENTICATED",
        )
    )
}  # fmt: skip

# x-envoy-retry-on and x-envoy-retry-grpc-on of Envoy's router filter.
RETRY_CONDITIONS = frozenset(
    {
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure",
        "envoy-ratelimited", "retriable-4xx", "refused-stream", "retriable-status-codes",
        "retriable-headers", "http3-post-connect-failure",
        "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
    }
)  # fmt: skip

MESH = "mesh"
"""The gateway that means every sidecar."""


Status = Annotated[int, integer(200, 599)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPMatch(Message):
    """``HTTPMatchRequest``: all of it must hold."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"statPrefix"})

    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[str, StringMatch] = field(default_factory=dict)
    without_headers: Mapping[str, StringMatch] = field(default_factory=dict)
    query_params: Mapping[str, StringMatch] = field(default_factory=dict)
    ignore_uri_case: bool = False
    port: Port | None = None
    source_labels: Labels = field(default_factory=dict)
    source_namespace: str = ""
    gateways: tuple[Name, ...] = ()

    @property
    def catch_all(self) -> bool:
        """Whether it says nothing about the request itself."""
        about_request = (
            self.scheme,
            self.method,
            self.authority,
            self.headers,
            self.without_headers,
            self.query_params,
        )
        any_path = self.uri is None or self.uri.prefix == "/" or self.uri.regex in ("*", ".*")
        return any_path and not any(about_request)


def header_value(place: Place, report: Report) -> str:
    """Read a header's value; ``%REQ(..)%`` and its like are Envoy's commands, a percent sign is ``%%``."""
    value = text(place, report)
    try:
        Template(value)
    except ValueError as error:
        raise Misfit(place, str(error)) from error
    if any(char in value for char in "\0\r\n"):
        raise Misfit(place, f"expected a header value on one line, got {value!r}")
    return value


HeaderValues = Mapping[str, Annotated[str, header_value]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderOperations(Message):
    """``Headers.HeaderOperations``. A ``Host`` or ``:authority`` that is set or added rewrites the authority."""

    set: HeaderValues = field(default_factory=dict)
    add: HeaderValues = field(default_factory=dict)
    remove: tuple[Name, ...] = ()

    def check(self, report: Report) -> None:
        """Names are not empty, and nobody removes the Host."""
        for operation, values in (("set", self.set), ("add", self.add)):
            if "" in values:
                report.error(self.at.child(operation), "expected names of headers, got an empty one")
        for index, removed in enumerate(self.remove):
            if is_pseudo_header(removed):
                report.error(self.at.child("remove").item(index), f"{removed!r} cannot be removed")


def is_pseudo_header(header: str) -> bool:
    """Tell whether a header is the Host or begins with a colon: Envoy changes those by rewrites alone."""
    return header.startswith(":") or header.lower() == "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers(Message):
    """``Headers``: what happens to the headers of requests and responses."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDestination(Message):
    """``HTTPRouteDestination``."""

    destination: Destination
    weight: Count = 0
    headers: Headers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries(Message):
    """``HTTPRetry``. ``attempts: 0`` means no retries."""

    attempts: Count = 0
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    retry_remote_localities: bool = False
    retry_ignore_previous_hosts: bool = True
    backoff: Duration | None = None

    def check(self, report: Report) -> None:
        """Istio's rule on ``attempts``, and the conditions' names."""
        if self.attempts == 0 and (self.per_try_timeout or self.retry_on):
            report.error(self.at, "expected attempts of at least 1: with 0, or none, nothing is retried")
        for condition in filter(None, (part.strip() for part in self.retry_on.split(","))):
            if condition not in RETRY_CONDITIONS and not (condition.isdigit() and 100 <= int(condition) < 600):
                near = suggestion(condition, RETRY_CONDITIONS)
                report.error(
                    self.at.child("retryOn"), f"expected retry conditions or status codes, got {condition!r}{near}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentage(Message):
    """``Percent``: 0 to 100."""

    value: Percent = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay(Message):
    """``HTTPFaultInjection.Delay``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"exponentialDelay"})

    fixed_delay: Duration | None = None
    percentage: Percentage | None = None
    percent: Share | None = None

    def check(self, report: Report) -> None:
        """A delay with no share of requests never happens."""
        if self.fixed_delay is None:
            report.error(self.at, "expected a field 'fixedDelay', and there is none")
        _check_share(self, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Message):
    """``HTTPFaultInjection.Abort``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"http2Error"})

    http_status: Status | None = None
    grpc_status: Annotated[str, one_of(*GRPC_STATUS)] | None = None
    percentage: Percentage | None = None
    percent: Share | None = None

    def check(self, report: Report) -> None:
        """Exactly one status, and some share of requests."""
        if (self.http_status is None) == (self.grpc_status is None):
            report.error(self.at, "expected one of httpStatus and grpcStatus")
        _check_share(self, report)


def _check_share(fault: Delay | Abort, report: Report) -> None:
    if fault.percentage is None and fault.percent is None:
        report.warning(fault.at, "has no percentage, so it never happens; write percentage: {value: 100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInjection(Message):
    """``HTTPFaultInjection``."""

    delay: Delay | None = None
    abort: Abort | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect(Message):
    """``HTTPRedirect``."""

    uri: str = ""
    authority: str = ""
    port: Port | None = None
    derive_port: Annotated[str, one_of("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")] = ""
    scheme: Annotated[str, one_of("http", "https")] = ""
    redirect_code: Annotated[int, integer(300, 399)] = 301

    def check(self, report: Report) -> None:
        """Envoy knows five codes; a port is given or derived."""
        if self.redirect_code not in (301, 302, 303, 307, 308):
            report.error(self.at.child("redirectCode"), f"expected 301, 302, 303, 307 or 308, got {self.redirect_code}")
        if self.port and self.derive_port:
            report.error(self.at, "expected port or derivePort, got both")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexRewrite(Message):
    """``RegexRewrite``: what ``match`` finds in the path becomes ``rewrite``."""

    match: Regex
    rewrite: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite(Message):
    """``HTTPRewrite``."""

    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None

    def check(self, report: Report) -> None:
        """One way to rewrite the path."""
        if self.uri and self.uri_regex_rewrite is not None:
            report.error(self.at, "expected one of uri and uriRegexRewrite, got both")


def octets(place: Place, report: Report) -> bytes:
    """Read bytes, in base64."""
    value = text(place, report)
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise Misfit(place, f"expected base64, got {value!r}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Body(Message):
    """``HTTPBody``."""

    string: str = ""
    raw: Annotated[bytes | None, octets, Key("bytes")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectResponse(Message):
    """``HTTPDirectResponse``."""

    status: Status
    body: Body | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPMirrorPolicy(Message):
    """``HTTPMirrorPolicy``: a copy of each request, or of a share of them, goes there too."""

    destination: Destination
    percentage: Percentage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegate(Message):
    """``Delegate``: the VirtualService that has the routes in place of this one; of this namespace by default."""

    name: Name
    namespace: str = ""


ACTIONS = ("route", "redirect", "directResponse", "delegate")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRoute(Message):
    """``HTTPRoute``: the first whose match holds takes the request."""

    name: str = ""
    match: tuple[HTTPMatch, ...] = ()
    route: tuple[RouteDestination, ...] = ()
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    rewrite: Rewrite | None = None
    timeout: Annotated[float, duration] | None = None
    retries: Retries | None = None
    fault: FaultInjection | None = None
    headers: Headers | None = None
    mirror: Destination | None = None
    mirror_percentage: Percentage | None = None
    mirror_percent: Share | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    cors_policy: CorsPolicy | None = None
    delegate: Delegate | None = None

    def check(self, report: Report) -> None:
        """Exactly one action, and weights that add up to something."""
        actions = [key for key in ACTIONS if self.at.has(key)]
        if len(actions) != 1:
            got = " and ".join(actions) or "none"
            report.error(self.at, f"expected one of {', '.join(ACTIONS)}, got {got}")
        elif "route" in actions and not self.route:
            report.error(self.at.child("route"), "expected at least one destination")
        if len(self.route) > 1 and sum(item.weight for item in self.route) == 0:
            report.error(self.at.child("route"), "expected weights: with several destinations their sum must not be 0")
        if self.mirror is not None and self.mirrors:
            report.error(self.at.child("mirrors"), "expected one of mirror, mirrors, got both")
        if self.timeout is not None and 0 < self.timeout < 0.001:
            report.error(self.at.child("timeout"), "expected at least 1ms, or 0s for none")

    @property
    def copies(self) -> tuple[tuple[Destination, Percentage | None, int | None], ...]:
        """Where copies of requests go, and of which share of them: a percentage, a percent or all."""
        if self.mirror is None:
            return tuple((item.destination, item.percentage, None) for item in self.mirrors)
        return ((self.mirror, self.mirror_percentage, self.mirror_percent),)

    @property
    def catch_all(self) -> bool:
        """Whether it takes every request that reaches it."""
        return not self.match or any(match.catch_all for match in self.match)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServiceSpec(Message):
    """``VirtualService.spec``."""

    hosts: tuple[Host, ...] = ()
    gateways: tuple[Name, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[Name, ...] = ()

    def check(self, report: Report) -> None:
        """Istio's rules: a delegate, without hosts, has HTTP routes alone; server names are of the hosts."""
        if not self.hosts and self.at.has("hosts"):
            report.error(self.at.child("hosts"), "expected at least one item, got an empty list")
        elif not self.hosts and (self.gateways or self.tls or self.tcp or not self.http):
            report.error(
                self.at, "expected a field 'hosts': only one that others delegate to, with http alone, has none"
            )
        for tls in self.tls:
            for match in tls.match:
                for index, sni in enumerate(match.sni_hosts):
                    if not any(hosts.matches(host, sni) for host in self.hosts):
                        place = match.at.child("sniHosts").item(index)
                        report.error(place, f"expected a server name that hosts has, as written, got {sni!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualService(Resource):
    """An Istio VirtualService."""

    spec: VirtualServiceSpec

    @property
    def gateways(self) -> tuple[str, ...]:
        """The gateways it is bound to as ``namespace/name``, or ``mesh``; the mesh by default."""
        return tuple(qualified(item, self.namespace) for item in self.spec.gateways or (MESH,))

    @property
    def destinations(self) -> Iterator[tuple[tuple[HTTPMatch | TLSMatch | L4Match, ...], Destination]]:
        """Every place that its routes lead to, copies of requests included, with the matches of the route."""
        for http in self.spec.http:
            for item in http.route:
                yield http.match, item.destination
            for copy, *_ in http.copies:
                yield http.match, copy
        for tls in self.spec.tls:
            yield from ((tls.match, item.destination) for item in tls.route)
        for tcp in self.spec.tcp:
            yield from ((tcp.match, item.destination) for item in tcp.route)


def qualified(gateway: str, namespace: str) -> str:
    """Return a gateway's name as ``namespace/name``; ``mesh`` stays."""
    return gateway if gateway == MESH or "/" in gateway else f"{namespace}/{gateway}"
