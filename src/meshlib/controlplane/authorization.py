"""Who may call a workload, and with which tokens: the filters that ask, of gateways, sidecars and gRPC servers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2

from meshlib.controlplane import ext_authz
from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.authorization import (
    ALLOW,
    AUDIT,
    CUSTOM,
    DENY,
    AuthorizationPolicy,
    JwtRule,
    RequestAuthentication,
)
from meshlib.controlplane.documents.providers import ExtensionProvider
from meshlib.controlplane.node import Node
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.protobuf import duration, pack
from meshlib.controlplane.rbac import Writer, never
from meshlib.controlplane.services import cluster_name
from meshlib.controlplane.workloads import selects

HTTP_RBAC = "envoy.filters.http.rbac"
_NETWORK_RBAC = "envoy.filters.network.rbac"
_JWT = "envoy.filters.http.jwt_authn"
_DRY_ALLOW, _DRY_DENY = "istio_dry_run_allow_", "istio_dry_run_deny_"
_ACTIONS = {AUDIT: rbac_pb2.RBAC.LOG, DENY: rbac_pb2.RBAC.DENY, ALLOW: rbac_pb2.RBAC.ALLOW}
_SPACED = ("permission", "scope")  # claims that are lists with spaces


@dataclass(frozen=True, slots=True)
class Security:
    """The policies in force for one workload, the older first."""

    options: MeshOptions
    policies: tuple[AuthorizationPolicy, ...]
    tokens: tuple[RequestAuthentication, ...]

    @classmethod
    def of(cls, documents: Documents, node: Node, options: MeshOptions) -> Security:
        """Return what is in force for a node: policies of the root namespace, then of its own."""

        def chosen(items: Iterable[Any]) -> list[Any]:
            ordered = sorted(items, key=lambda item: item.age)
            return [
                item
                for namespace in dict.fromkeys((options.root_namespace, node.namespace))
                for item in ordered
                if item.namespace == namespace and selects(item.labels_chosen, node.labels)
            ]

        policies = chosen(documents.authorization_policies)
        return cls(options, tuple(policies), tuple(chosen(documents.request_authentications)))

    def http_filters(self, *, gateway: bool) -> list[Any]:
        """Return the HTTP filters: those that ask others, tokens, then what is audited, denied and allowed."""
        filters = self._custom(tcp=False)
        if self.tokens:
            filters.append(_filter(_JWT, self._jwt(gateway=gateway)))
        return [*filters, *self._obeyed(tcp=False)]

    def tcp_filters(self) -> list[Any]:
        """Return the network filters, for bytes."""
        return [*self._custom(tcp=True), *self._obeyed(tcp=True)]

    def _obeyed(self, *, tcp: bool) -> list[Any]:
        filters = []
        for action in _ACTIONS:
            rules, shadow = self._rules(action, tcp=tcp)
            if rules is not None or shadow is not None:
                prefix = _DRY_DENY if shadow is not None and action == DENY else _DRY_ALLOW
                prefix = _shadow(shadow, action, prefix)
                config = _rbac(tcp=tcp, rules=rules, shadow_rules=shadow, shadow_rules_stat_prefix=prefix)
                filters.append(_filter(_NETWORK_RBAC if tcp else HTTP_RBAC, config, tcp=tcp))
        return filters

    def grpc_filters(self) -> list[Any]:
        """Return the filters of a gRPC server, which knows DENY and ALLOW.

        Where istiod lets a policy go unheard, ours is not less strict than what is written: an ALLOW without rules
        lets nobody in, and what CUSTOM would ask about is denied, for gRPC asks nobody. As with istiod, a policy
        that should only report is obeyed, and aliases of the trust domain do not count.
        """
        filters = []
        for action, name in ((DENY, f"{HTTP_RBAC}.DENY"), (ALLOW, HTTP_RBAC)):
            wanted = (DENY, CUSTOM) if action == DENY else (ALLOW,)
            made: dict[str, Any] = {}
            for policy in (item for item in self.policies if item.action in wanted):
                writer = Writer(policy.namespace, lenient=action != ALLOW, tcp=False, trust_domains=())
                for index, rule in enumerate(policy.rules):
                    made[f"{policy.namespace}-{policy.name}-{index}"] = writer.policy(rule)
                if not policy.rules and action == ALLOW:
                    made[f"{policy.namespace}-{policy.name}-0"] = never()
            if made:
                rules = rbac_pb2.RBAC(action=_ACTIONS[action], policies=made)
                filters.append(_filter(name, http_rbac_pb2.RBAC(rules=rules)))
        return filters

    # ------------------------------------------------------------ rules

    def _writer(self, policy: AuthorizationPolicy, action: str, *, tcp: bool) -> Writer:
        return Writer(policy.namespace, lenient=action != ALLOW, tcp=tcp, trust_domains=self.options.trust_domains)

    def _rules(self, action: str, *, tcp: bool) -> tuple[Any | None, Any | None]:
        """Return the rules of an action, and those that are only reported; None where no policy has any."""
        chosen = [item for item in self.policies if item.action == action]
        made = []
        for dry in (False, True):
            kept = [item for item in chosen if item.dry_run is dry]
            policies = self._policies(kept, action, tcp=tcp)
            made.append(rbac_pb2.RBAC(action=_ACTIONS[action], policies=policies) if kept else None)
        return made[0], made[1]

    def _policies(
        self, policies: Sequence[AuthorizationPolicy], action: str, *, tcp: bool, prefix: str = ""
    ) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for policy in policies:
            name = f"{prefix}ns[{policy.namespace}]-policy[{policy.name}]-rule"
            writer = self._writer(policy, action, tcp=tcp)
            for index, rule in enumerate(policy.rules):
                written = writer.policy(rule)
                if written is not None:
                    made[f"{name}[{index}]"] = written
            if not policy.rules:
                made[f"{name}[0]"] = never()
        return made

    # ------------------------------------------------------------ asking others

    def _custom(self, *, tcp: bool) -> list[Any]:
        """Return the filters that ask others, each behind the rules that say about what."""
        policies = [item for item in self.policies if item.action == CUSTOM]
        names = sorted({item.spec.provider.name for item in policies if item.spec and item.spec.provider})
        rbac, filters = (_NETWORK_RBAC if tcp else HTTP_RBAC), []
        for name in names:
            own = [item for item in policies if item.spec and item.spec.provider and item.spec.provider.name == name]
            rules = self._policies(own, DENY, tcp=tcp, prefix=f"istio-ext-authz-{name}-")
            provider = self._provider(name)
            if len(names) > 1 or provider is None or not ext_authz.answers(provider):
                # nobody can be asked, so what would be asked about is denied
                denied = {f"{key}-deny-due-to-bad-CUSTOM-action": value for key, value in rules.items()}
                config = _rbac(tcp=tcp, rules=rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY, policies=denied))
                filters.append(_filter(rbac, config, tcp=tcp))
                continue
            asked = ext_authz.of_provider(provider, name, rbac, tcp=tcp)
            if asked is not None:
                shadow = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY, policies=rules)
                config = _rbac(tcp=tcp, shadow_rules=shadow, shadow_rules_stat_prefix=ext_authz.MARK)
                kind = "network" if tcp else "http"
                filters.append(_filter(rbac, config, tcp=tcp))
                filters.append(_filter(f"envoy.filters.{kind}.ext_authz", asked, tcp=tcp))
        return filters

    def _provider(self, name: str) -> ExtensionProvider | None:
        known = self.options.mesh.extension_providers if self.options.mesh else ()
        return next((item for item in known if item.name == name), None)

    # ------------------------------------------------------------ tokens

    def _jwt(self, *, gateway: bool) -> Any:
        rules = [rule for item in self.tokens for rule in item.spec.jwt_rules]
        rules.sort(key=lambda rule: rule.issuer)
        config = jwt_pb2.JwtAuthentication(bypass_cors_preflight=True)
        each, every = [], []
        for index, rule in enumerate(rules):
            name = f"origins-{index}"
            config.providers[name].CopyFrom(_jwt_provider(rule, gateway=gateway))
            one = jwt_pb2.JwtRequirement(provider_name=name)
            missing = jwt_pb2.JwtRequirement()
            missing.allow_missing.SetInParent()
            each.append(one)
            every.append(_any_of([one, missing]))
        if len(every) > 1:
            both = jwt_pb2.JwtRequirement(requires_all=jwt_pb2.JwtRequirementAndList(requirements=every))
            every = [_any_of([*each, both])]
        if every:
            config.rules.add(match={"prefix": "/"}, requires=every[0])
        return config


def _shadow(shadow: Any | None, action: str, prefix: str) -> str:
    """Return the prefix of what is only reported; istiod's is that of ALLOW where nothing is."""
    return prefix if shadow is None or action in (ALLOW, DENY) else ""


def _rbac(*, tcp: bool, **written: Any) -> Any:
    return network_rbac_pb2.RBAC(stat_prefix="tcp.", **written) if tcp else http_rbac_pb2.RBAC(**written)


def _filter(name: str, config: Any, *, tcp: bool = False) -> Any:
    kind = listener_components_pb2.Filter if tcp else hcm_pb2.HttpFilter
    return kind(name=name, typed_config=pack(config))


def _any_of(requirements: Sequence[Any]) -> Any:
    return jwt_pb2.JwtRequirement(requires_any=jwt_pb2.JwtRequirementOrList(requirements=requirements))


def _jwt_provider(rule: JwtRule, *, gateway: bool) -> Any:
    provider = jwt_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward_original_token,
        forward_payload_header=rule.output_payload_to_header,
        payload_in_metadata="payload",
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
        clear_route_cache=gateway,  # whose routes may look at claims
    )
    provider.normalize_payload_in_metadata.space_delimited_claims.extend(
        sorted({*_SPACED, *rule.space_delimited_claims})
    )
    for item in rule.from_headers:
        provider.from_headers.add(name=item.name, value_prefix=item.prefix)
    for claim in rule.output_claim_to_headers:
        provider.claim_to_headers.add(header_name=claim.header, claim_name=claim.claim)
    if rule.jwks:
        provider.local_jwks.inline_string = rule.jwks
        return provider
    # The embedded control plane fetches nothing: Envoy does, and no token is good until it has the keys.
    uri, split = provider.remote_jwks.http_uri, urlsplit(rule.jwks_uri)
    uri.uri = rule.jwks_uri
    uri.cluster = cluster_name(split.hostname or "", split.port or (80 if split.scheme == "http" else 443))
    uri.timeout.CopyFrom(duration(rule.timeout or 5.0))
    provider.remote_jwks.cache_duration.CopyFrom(duration(300))
    return provider
