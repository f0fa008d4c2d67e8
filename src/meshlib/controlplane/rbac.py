"""Rules of AuthorizationPolicies to Envoy's RBAC policies, as istiod writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2

from meshlib.controlplane.chains import cidr_range
from meshlib.controlplane.documents.authorization import Condition, Operation, Rule, Source
from meshlib.controlplane.protobuf import pack

_JWT = "envoy.filters.http.jwt_authn"
_CLAIMS = {"request.auth.audiences": ["aud"], "request.auth.presenter": ["azp"]}


class HttpOnly(Exception):
    """A condition on HTTP where only bytes are seen."""


@dataclass(frozen=True, slots=True)
class _Check:
    """One attribute with its values: ``make`` turns one value into a Permission or Principal.

    ``whole`` turns all values into one.
    """

    values: Sequence[str]
    not_values: Sequence[str]
    make: Callable[[str], Any] | None = None
    whole: Callable[[Sequence[str]], Any] | None = None


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the rules of one policy.

    Attributes:
        namespace: of the policy.
        lenient: whether a condition that cannot be checked is dropped, not the rule: a DENY then denies more, and
            an ALLOW must not allow more.
        tcp: whether only bytes are seen.
        trust_domains: the names that count for the mesh's own.
    """

    namespace: str
    lenient: bool
    tcp: bool
    trust_domains: tuple[str, ...]

    def policy(self, rule: Rule) -> Any | None:
        """Return the Policy of a rule; None where it can hold for no connection."""
        permits = [check for when in rule.when if (check := _permission(when)) is not None]
        identifies = [check for when in rule.when if (check := _identity(self, when)) is not None]
        try:
            return rbac_pb2.Policy(
                permissions=[
                    self._all(rbac_pb2.Permission, [*self._operation(item.operation), *permits]) for item in rule.to
                ]
                or [self._all(rbac_pb2.Permission, permits)],
                principals=[
                    self._all(rbac_pb2.Principal, [*self._source(item.source), *identifies]) for item in rule.from_
                ]
                or [self._all(rbac_pb2.Principal, identifies)],
            )
        except HttpOnly:
            return None

    def _all(self, kind: Any, checks: Iterable[_Check]) -> Any:
        """Return that all of the checks hold."""
        made = []
        for check in checks:
            for values, negative in ((check.values, False), (check.not_values, True)):
                one = self._any(kind, check, values)
                if one is not None:
                    made.append(_not(kind, one) if negative else one)
        group = made or [kind(any=True)]
        if kind is rbac_pb2.Permission:
            return kind(and_rules=rbac_pb2.Permission.Set(rules=group))
        return kind(and_ids=rbac_pb2.Principal.Set(ids=group))

    def _any(self, kind: Any, check: _Check, values: Sequence[str]) -> Any | None:
        if not values:
            return None
        try:
            if check.whole is not None:
                return check.whole(values)
            made = [check.make(value) for value in values] if check.make else []
        except HttpOnly:
            if self.lenient:
                return None
            raise
        return _or(kind, made)

    # ------------------------------------------------------------ what is asked of requests

    def _operation(self, item: Operation) -> list[_Check]:
        return _written(
            _Check(item.hosts, item.not_hosts, self.http(lambda value: _header(":authority", value, fold=True))),
            _Check(item.methods, item.not_methods, self.http(lambda value: _header(":method", value))),
            _Check(item.paths, item.not_paths, self.http(_path)),
            _Check(item.ports, item.not_ports, _port),
        )

    def _source(self, item: Source) -> list[_Check]:
        return _written(
            _Check(self.domains(item.principals), self.domains(item.not_principals), _principal),
            _Check(item.request_principals, item.not_request_principals, whole=self.http(_request_principals)),
            _Check(item.service_accounts, item.not_service_accounts, self.account),
            _Check(self.expanded(item.trust_domains), self.expanded(item.not_trust_domains), _trust_domain),
            _Check(item.namespaces, item.not_namespaces, _namespace),
            _Check(item.remote_ip_blocks, item.not_remote_ip_blocks, _remote_ip),
            _Check(item.ip_blocks, item.not_ip_blocks, _direct_ip),
        )

    def http(self, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return ``make``, or what raises :class:`HttpOnly` where only bytes are seen."""

        def refuse(_: Any) -> Any:
            raise HttpOnly

        return refuse if self.tcp else make

    def account(self, value: str) -> Any:
        """Return the principal of a service account, of the policy's namespace by default."""
        namespace, slash, name = value.partition("/")
        if not slash:
            namespace, name = self.namespace, value
        return _authenticated(regex=f"spiffe://.+/ns/{_quoted(namespace)}/(.+/|)sa/{_quoted(name)}(/.+)?")

    def domains(self, principals: Sequence[str]) -> list[str]:
        """Return principals under every name that the mesh's trust domain has."""
        domains = self.trust_domains
        made: list[str] = []
        for value in principals:
            domain, slash, rest = value.partition("/")
            known = domains and slash and (domain in domains or domain == "cluster.local")
            made += [f"{name}/{rest}" for name in domains] if known else [value]
        return list(dict.fromkeys(made))

    def expanded(self, values: Sequence[str]) -> list[str]:
        """Return trust domains with the mesh's aliases."""
        domains = self.trust_domains
        made = [name for value in values for name in (domains if value in domains else [value])]
        return list(dict.fromkeys(made))


def _permission(when: Condition) -> _Check | None:
    """Return what a condition asks of the request, None where it is about who makes it."""
    makers: dict[str, Callable[[str], Any]] = {
        "destination.ip": lambda value: rbac_pb2.Permission(destination_ip=cidr_range(value)),
        "destination.port": _port,
        "connection.sni": lambda value: rbac_pb2.Permission(requested_server_name=_string(value)),
    }
    if when.key in makers:
        return _Check(when.values, when.not_values, makers[when.key])
    if when.key.startswith("experimental."):
        return _Check(when.values, when.not_values, whole=lambda values: _filter_metadata(when.key, values))
    return None


def _identity(writer: Writer, when: Condition) -> _Check | None:
    """Return what a condition asks of who makes the request, None where it is about the request."""
    values, others = when.values, when.not_values
    if when.key == "source.principal":
        return _Check(writer.domains(values), writer.domains(others), _principal)
    if when.key == "source.trustDomain":
        return _Check(writer.expanded(values), writer.expanded(others), _trust_domain)
    if when.key == "request.auth.principal":
        return _Check(values, others, whole=writer.http(_request_principals))
    if when.key.startswith("request.headers["):
        name = when.key[len("request.headers[") : -1]
        make = writer.http(lambda value: rbac_pb2.Principal(header=_header_match(name, value)))
        return _Check(values, others, make)
    claims = _CLAIMS.get(when.key) or re.findall(r"\[([^\[\]]+)\]", when.key)
    if when.key in _CLAIMS or when.key.startswith("request.auth.claims["):
        return _Check(values, others, whole=writer.http(lambda written: _claims(claims, written)))
    makers: dict[str, Callable[[str], Any]] = {
        "source.ip": _direct_ip,
        "remote.ip": _remote_ip,
        "source.namespace": _namespace,
        "source.serviceAccount": writer.account,
    }
    return _Check(values, others, makers[when.key]) if when.key in makers else None


def _written(*checks: _Check) -> list[_Check]:
    return [check for check in checks if check.values or check.not_values]


def never() -> Any:
    """Return the Policy that holds for nobody: what a policy without rules allows."""
    return rbac_pb2.Policy(
        permissions=[_not(rbac_pb2.Permission, rbac_pb2.Permission(any=True))],
        principals=[_not(rbac_pb2.Principal, rbac_pb2.Principal(any=True))],
    )


# ---------------------------------------------------------------- shapes


def _not(kind: Any, item: Any) -> Any:
    return kind(not_rule=item) if kind is rbac_pb2.Permission else kind(not_id=item)


def _or(kind: Any, items: Sequence[Any]) -> Any:
    if kind is rbac_pb2.Permission:
        return kind(or_rules=rbac_pb2.Permission.Set(rules=items))
    return kind(or_ids=rbac_pb2.Principal.Set(ids=items))


def _quoted(text: str) -> str:
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def _string(value: str, prefix: str = "", *, fold: bool = False) -> Any:
    """Return a StringMatcher of a value with a ``*`` at either end or none."""
    if value == "*":
        return _regex(".+")
    if value.startswith("*"):
        if prefix:
            return _regex(f"{prefix}.*{_quoted(value[1:])}")
        return string_pb2.StringMatcher(suffix=value[1:], ignore_case=fold)
    if value.endswith("*"):
        return string_pb2.StringMatcher(prefix=prefix + value[:-1], ignore_case=fold)
    return string_pb2.StringMatcher(exact=prefix + value, ignore_case=fold)


def _regex(expression: str) -> Any:
    message = string_pb2.StringMatcher()
    message.safe_regex.regex = expression
    return message


def _header_match(name: str, value: str, *, fold: bool = False) -> Any:
    if value == "*":
        return route_pb2.HeaderMatcher(name=name, present_match=True)
    return route_pb2.HeaderMatcher(name=name, string_match=_string(value, fold=fold))


def _header(name: str, value: str, *, fold: bool = False) -> Any:
    return rbac_pb2.Permission(header=_header_match(name, value, fold=fold))


def _path(value: str) -> Any:
    message = rbac_pb2.Permission()
    if "{*}" in value or "{**}" in value:
        template = uri_template_match_pb2.UriTemplateMatchConfig(
            path_template=value.replace("{*}", "*").replace("{**}", "**")
        )
        message.uri_template.name = "uri-template"
        message.uri_template.typed_config.CopyFrom(pack(template))
        return message
    message.url_path.path.CopyFrom(_string(value))
    return message


def _port(value: str) -> Any:
    return rbac_pb2.Permission(destination_port=int(value))


def _authenticated(matcher: Any | None = None, *, regex: str = "") -> Any:
    message = rbac_pb2.Principal()
    message.authenticated.principal_name.CopyFrom(_regex(regex) if matcher is None else matcher)
    return message


def _principal(value: str) -> Any:
    return _authenticated(_string(value, "spiffe://"))


def _namespace(value: str) -> Any:
    return _authenticated(regex=f".*/ns/{'.*'.join(_quoted(part) for part in value.split('*'))}/.*")


def _trust_domain(value: str) -> Any:
    if value == "*":
        return _authenticated(string_pb2.StringMatcher(prefix="spiffe://"))
    if "*" not in value:
        return _authenticated(string_pb2.StringMatcher(prefix=f"spiffe://{value}/"))
    before, _, after = value.partition("*")
    return _authenticated(regex=f"spiffe://{_quoted(before)}[^/]*{_quoted(after)}/.*")


def _direct_ip(value: str) -> Any:
    return rbac_pb2.Principal(direct_remote_ip=cidr_range(value))


def _remote_ip(value: str) -> Any:
    return rbac_pb2.Principal(remote_ip=cidr_range(value))


# ---------------------------------------------------------------- tokens


def _metadata(name: str, keys: Iterable[str], value: Any) -> Any:
    message = metadata_pb2.MetadataMatcher(filter=name, value=value)
    for key in keys:
        message.path.add(key=key)
    return message


def _value(values: Sequence[str]) -> Any:
    made = [value_pb2.ValueMatcher(string_match=_string(value)) for value in values]
    return made[0] if len(made) == 1 else value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=made))


def _claims(claims: Sequence[str], values: Sequence[str]) -> Any:
    """Return that a claim, maybe a list, has one of the values."""
    value = _value(values)
    listed = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=value))
    either = value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=[listed, value]))
    return rbac_pb2.Principal(metadata=_metadata(_JWT, ["payload", *claims], either))


def _request_principals(values: Sequence[str]) -> Any:
    made = []
    for value in values:
        issuer, subject = _issuer_and_subject(value)
        pair = [
            rbac_pb2.Principal(
                metadata=_metadata(_JWT, ["payload", claim], value_pb2.ValueMatcher(string_match=matcher))
            )
            for claim, matcher in (("iss", issuer), ("sub", subject))
        ]
        made.append(rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=pair)))
    return made[0] if len(made) == 1 else _or(rbac_pb2.Principal, made)


def _issuer_and_subject(value: str) -> tuple[Any, Any]:
    """Return matchers for ``issuer/subject``, each perhaps with a ``*``."""
    issuer, slash, subject = value.rpartition("/") if "/" in value else (value, "", "")
    anything = _regex(".+")
    if value == "*":
        return anything, anything
    if value.startswith("*"):
        if not slash:
            return anything, string_pb2.StringMatcher(suffix=value[1:])
        first = anything if issuer == "*" else string_pb2.StringMatcher(suffix=issuer[1:])
        return first, string_pb2.StringMatcher(exact=subject)
    if value.endswith("*"):
        if not slash:
            return string_pb2.StringMatcher(prefix=value[:-1]), anything
        second = anything if subject == "*" else string_pb2.StringMatcher(prefix=subject[:-1])
        return string_pb2.StringMatcher(exact=issuer), second
    return string_pb2.StringMatcher(exact=issuer), string_pb2.StringMatcher(exact=subject)


def _filter_metadata(key: str, values: Sequence[str]) -> Any:
    """Return a match of ``experimental.envoy.filters.NAME[KEY]``; a value in brackets is one of a list."""
    name, _, inner = key.removeprefix("experimental.").removesuffix("]").partition("[")
    made = []
    for value in values:
        listed = value.startswith("[") and value.endswith("]")
        one = value_pb2.ValueMatcher(string_match=_string(value.strip("[]") if listed else value))
        made.append(value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=one)) if listed else one)
    either = value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=made))
    return rbac_pb2.Permission(metadata=_metadata(name, [inner], made[0] if len(made) == 1 else either))
