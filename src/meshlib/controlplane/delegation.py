"""VirtualServices that have their routes from others, put together as Istio does before all else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.string_match import StringMatch
from meshlib.controlplane.documents.virtual_service import HTTPMatch, HTTPRoute, VirtualService
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.visibility import visible


def resolved(documents: Documents, options: MeshOptions) -> tuple[VirtualService, ...]:
    """Return the VirtualServices that have hosts, with the routes of those that they delegate to in place."""
    delegates = {(item.namespace, item.name): item for item in documents.virtual_services if not item.spec.hosts}
    made = []
    for root in documents.virtual_services:
        if not root.spec.hosts:
            continue
        if any(http.delegate for http in root.spec.http):
            http = tuple(_routes(root, delegates, options))
            root = replace(root, spec=replace(root.spec, http=http))
        made.append(root)
    return tuple(made)


def _routes(
    root: VirtualService, delegates: Mapping[tuple[str, str], VirtualService], options: MeshOptions
) -> Iterator[HTTPRoute]:
    for http in root.spec.http:
        if http.delegate is None:
            yield http
            continue
        found = delegates.get((http.delegate.namespace or root.namespace, http.delegate.name))
        exported = found and (found.spec.export_to or options.export_virtual_services)
        if found is None or not visible(exported or (), found.namespace, root.namespace):
            continue  # references tells of it
        for route in found.spec.http:
            merged = _merged(http, route)
            if merged is not None:
                yield merged


def _merged(root: HTTPRoute, route: HTTPRoute) -> HTTPRoute | None:
    """Return the delegate's route under the root's; None where their matches contradict each other."""
    matches = _matches(root.match, route.match)
    if matches is None:
        return None
    own = bool(route.mirror or route.mirrors)
    return replace(
        route,
        match=matches,
        name="-".join(part for part in (root.name, route.name) if part),
        rewrite=route.rewrite or root.rewrite,
        timeout=root.timeout if route.timeout is None else route.timeout,
        retries=route.retries or root.retries,
        fault=route.fault or root.fault,
        headers=route.headers or root.headers,
        cors_policy=route.cors_policy or root.cors_policy,
        mirror=route.mirror if own else root.mirror,
        mirrors=route.mirrors if own else root.mirrors,
        mirror_percent=root.mirror_percent if route.mirror_percent is None else route.mirror_percent,
        mirror_percentage=route.mirror_percentage or root.mirror_percentage,
    )


def _matches(root: tuple[HTTPMatch, ...], own: tuple[HTTPMatch, ...]) -> tuple[HTTPMatch, ...] | None:
    """Return each of the delegate's matches within those of the root that it fits; None where one fits none."""
    if not root or not own:
        return own or root
    found: list[HTTPMatch] = []
    for leaf in own:
        within = [_within(match, leaf) for match in root if not _contradicts(match, leaf)]
        if not within:
            return None
        found += within
    return tuple(found)


def _within(root: HTTPMatch, leaf: HTTPMatch) -> HTTPMatch:
    return replace(
        leaf,
        name="-".join(part for part in (root.name, leaf.name) if part),
        uri=leaf.uri or root.uri,
        scheme=leaf.scheme or root.scheme,
        method=leaf.method or root.method,
        authority=leaf.authority or root.authority,
        headers={**root.headers, **leaf.headers},
        without_headers={**root.without_headers, **leaf.without_headers},
        query_params={**root.query_params, **leaf.query_params},
        port=leaf.port or root.port,
        source_labels={**root.source_labels, **leaf.source_labels},
        source_namespace=leaf.source_namespace or root.source_namespace,
        gateways=leaf.gateways or root.gateways,
    )


def _contradicts(root: HTTPMatch, leaf: HTTPMatch) -> bool:
    pairs = [(root.uri, leaf.uri), (root.scheme, leaf.scheme), (root.method, leaf.method)]
    pairs.append((root.authority, leaf.authority))
    for attribute in ("headers", "without_headers", "query_params"):
        above = getattr(root, attribute)
        pairs += [(above.get(key), value) for key, value in getattr(leaf, attribute).items()]
    return (
        any(_apart(one, other) for one, other in pairs)
        or root.ignore_uri_case != leaf.ignore_uri_case
        or bool(root.port and leaf.port and root.port != leaf.port)
        or any(root.source_labels.get(key, value) != value for key, value in leaf.source_labels.items())
        or bool(root.source_namespace and leaf.source_namespace and root.source_namespace != leaf.source_namespace)
        or bool(root.gateways and not set(leaf.gateways) <= set(root.gateways))
    )


def _apart(root: StringMatch | None, leaf: StringMatch | None) -> bool:
    """Tell whether what the delegate takes is not part of what the root takes."""
    if root is None or leaf is None or (not leaf.regex and root.present):
        return False
    if root.regex or leaf.regex:
        return True
    if root.exact:
        return leaf.exact != root.exact
    return not (leaf.exact or leaf.prefix or "").startswith(root.prefix or "")
