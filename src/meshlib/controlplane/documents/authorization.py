"""AuthorizationPolicy: who may call a workload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import Duration, Key, Message, Name, one_of, text
from meshlib.controlplane.documents.l4_routes import Subnet
from meshlib.controlplane.documents.place import Misfit, Place, Report
from meshlib.controlplane.documents.resource import Resource
from meshlib.controlplane.documents.security import Selector
from meshlib.controlplane.faults import suggestion

ALLOW, DENY, AUDIT, CUSTOM = "ALLOW", "DENY", "AUDIT", "CUSTOM"
_DRY_RUN = "istio.io/dry-run"
_PLAIN = (
    "source.ip", "remote.ip", "source.namespace", "source.principal", "source.trustDomain", "source.serviceAccount",
    "request.auth.principal", "request.auth.audiences", "request.auth.presenter", "destination.ip",
    "destination.port", "connection.sni",
)  # fmt: skip
_KEY = re.compile(
    r"request\.headers\[[^\[\]]+\]|request\.auth\.claims(\[[^\[\]]+\])+|experimental\.envoy\.filters\..+\[.+\]"
)


def attribute(place: Place, report: Report) -> str:
    """Read the name of an attribute: ``source.ip``, ``request.headers[x-team]``."""
    value = text(place, report)
    if value not in _PLAIN and not _KEY.fullmatch(value):
        known = (*_PLAIN, "request.headers[NAME]", "request.auth.claims[NAME]")
        near = suggestion(value, known) or f"; known here: {', '.join(known)}"
        raise Misfit(place, f"unknown attribute {value!r}{near}")
    return value


def port(place: Place, report: Report) -> str:
    """Read the number of a port, which is a string here."""
    value = text(place, report)
    if not (value.isdecimal() and 0 <= int(value) < 65536):
        raise Misfit(place, f"expected the number of a port in quotes, got {value!r}")
    return value


Names = tuple[Name, ...]
Subnets = tuple[Subnet, ...]
Ports = tuple[Annotated[str, port], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Message):
    """``Source``: all of it must hold."""

    principals: Names = ()
    not_principals: Names = ()
    request_principals: Names = ()
    not_request_principals: Names = ()
    namespaces: Names = ()
    not_namespaces: Names = ()
    service_accounts: Names = ()
    not_service_accounts: Names = ()
    trust_domains: Names = ()
    not_trust_domains: Names = ()
    ip_blocks: Subnets = ()
    not_ip_blocks: Subnets = ()
    remote_ip_blocks: Subnets = ()
    not_remote_ip_blocks: Subnets = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Message):
    """``Operation``: all of it must hold."""

    hosts: Names = ()
    not_hosts: Names = ()
    methods: Names = ()
    not_methods: Names = ()
    paths: Names = ()
    not_paths: Names = ()
    ports: Ports = ()
    not_ports: Ports = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Message):
    """``Rule.From``."""

    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class To(Message):
    """``Rule.To``."""

    operation: Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Message):
    """``Condition``: an attribute with one of the values, and none of the others."""

    key: Annotated[str, attribute]
    values: Names = ()
    not_values: Names = ()

    def check(self, report: Report) -> None:
        """Something to compare with."""
        if not self.values and not self.not_values:
            report.error(self.at, "expected values or notValues")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Message):
    """``Rule``: one of ``from``, one of ``to``, and all of ``when``; an empty one holds always."""

    from_: Annotated[tuple[From, ...], Key("from")] = ()
    to: tuple[To, ...] = ()
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider(Message):
    """``ExtensionProvider``: whom CUSTOM asks."""

    name: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicySpec(Message):
    """``AuthorizationPolicy.spec``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"targetRef", "targetRefs"})

    selector: Selector | None = None
    action: Annotated[str, one_of(ALLOW, DENY, AUDIT, CUSTOM)] = ALLOW
    rules: tuple[Rule, ...] = ()
    provider: Provider | None = None

    def check(self, report: Report) -> None:
        """A provider with CUSTOM alone; nothing is denied by no rule."""
        if (self.action == CUSTOM) != (self.provider is not None):
            report.error(self.at, "expected provider with action CUSTOM, and with no other")
        if self.action == DENY and not self.rules:
            report.warning(self.at, "has no rules, so it denies nothing; write rules: [{}] to deny everything")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy(Resource):
    """An Istio AuthorizationPolicy; one without rules that allows lets nobody in."""

    spec: AuthorizationPolicySpec | None = None

    @property
    def labels_chosen(self) -> Mapping[str, str]:
        """The labels of the workloads it is for; none for all of the namespace."""
        return self.spec.selector.match_labels if self.spec and self.spec.selector else {}

    @property
    def action(self) -> str:
        """What becomes of the requests that a rule takes."""
        return self.spec.action if self.spec else ALLOW

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Its rules."""
        return self.spec.rules if self.spec else ()

    @property
    def dry_run(self) -> bool:
        """Whether it only reports what it would do."""
        return self.metadata.annotations.get(_DRY_RUN) == "true"


# ---------------------------------------------------------------- RequestAuthentication


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtHeader(Message):
    """``JWTHeader``."""

    name: Name
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimToHeader(Message):
    """``ClaimToHeader``."""

    header: Name
    claim: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule(Message):
    """``JWTRule``: an issuer, its keys, and where its tokens are found."""

    issuer: Name
    audiences: Names = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[JwtHeader, ...] = ()
    from_params: Names = ()
    from_cookies: Names = ()
    output_payload_to_header: str = ""
    forward_original_token: bool = False
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: Duration | None = None
    space_delimited_claims: Names = ()

    def check(self, report: Report) -> None:
        """Keys from one place."""
        if bool(self.jwks) == bool(self.jwks_uri):
            report.error(self.at, "expected one of jwks and jwksUri")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthenticationSpec(Message):
    """``RequestAuthentication.spec``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"targetRef", "targetRefs"})

    selector: Selector | None = None
    jwt_rules: tuple[JwtRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthentication(Resource):
    """An Istio RequestAuthentication: a token that is there must be good; none at all is let through."""

    spec: RequestAuthenticationSpec

    @property
    def labels_chosen(self) -> Mapping[str, str]:
        """The labels of the workloads it is for; none for all of the namespace."""
        return self.spec.selector.match_labels if self.spec.selector else {}
