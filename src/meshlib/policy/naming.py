"""The names of a TLS connection: what is sent as the server's, and what its certificate must be for."""

from __future__ import annotations

import ipaddress

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import Endpoint
from meshlib.model.request import RequestView
from meshlib.model.tls import UpstreamTls
from meshlib.policy.headers import endpoint_authority


def tls_names(
    cluster: Cluster, tls: UpstreamTls, endpoint: Endpoint, authority: str, view: RequestView
) -> tuple[str, str]:
    """Return the server name to send and the name the certificate must be for; empty for none.

    As in Envoy the request's own host (``auto_sni``) goes before the endpoint's
    (``auto_host_sni``), and that before the literal ``sni``; no IP address is sent.

    Args:
        cluster: for ``upstream_http_protocol_options``.
        tls: the settings.
        endpoint: where the connection goes.
        authority: the Host header as it is sent.
        view: the request, for ``override_auto_sni_header``.
    """
    options = cluster.upstream_http
    asked = ""
    if options.auto_sni or options.auto_san_validation:
        asked = host_of((view.header(options.header) if options.header else None) or authority)
    sni = asked if options.auto_sni and not _is_address(asked) else ""
    if not sni and tls.auto_host_sni:
        sni = endpoint_authority(cluster, endpoint)
    sni = sni or tls.sni
    if options.auto_san_validation:
        return sni, asked
    return sni, sni if tls.auto_sni_san_validation else ""


def host_of(authority: str) -> str:
    """Return a Host header without its port and an IPv6 address without its brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    host, _, port = authority.rpartition(":")
    return host if host and port.isdecimal() else authority


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
