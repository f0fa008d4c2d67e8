"""What ``mesh.transport()`` may be told; httpx ignores a client's own settings when ``transport=`` is given."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import httpx

from meshlib.upstream.pools import PoolSettings

# Per endpoint. Clusters set their own max_connections; 100 idle ones serve a busy process.
DEFAULT_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=30.0)


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Options of one transport.

    Attributes:
        verify: certificate verification of ``https://`` URLs (the application's own TLS).
        cert: client certificate of ``https://`` URLs.
        trust_env: whether SSL_CERT_FILE and SSL_CERT_DIR are honoured for them.
        http2: whether ``https://`` URLs may negotiate HTTP/2; plaintext follows the cluster.
        limits: connections per endpoint.
        local_replies: ``raise`` (default) or ``response``, what an Envoy sidecar would send.
        inner: a transport that answers attempts instead of our connections: mocks and apps
            (MockTransport, ASGITransport, WSGITransport).
    """

    verify: ssl.SSLContext | bool = True
    cert: str | tuple[str, str] | tuple[str, str, str] | None = None
    trust_env: bool = True
    http2: bool = False
    limits: httpx.Limits = field(default_factory=lambda: DEFAULT_LIMITS)
    local_replies: str = "raise"
    inner: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None

    def __post_init__(self) -> None:
        if self.local_replies not in ("raise", "response"):
            raise ValueError(f"local_replies is 'raise' or 'response', not {self.local_replies!r}")

    @property
    def raises(self) -> bool:
        """Whether mesh failures are exceptions."""
        return self.local_replies == "raise"

    def plain(self) -> dict[str, Any]:
        """Return what httpx's own transport takes of these."""
        return {name: getattr(self, name) for name in ("verify", "cert", "trust_env", "http2", "limits")}

    def pool_settings(self) -> PoolSettings:
        """Return how pools are made."""
        return PoolSettings(
            max_connections=self.limits.max_connections,
            max_keepalive=self.limits.max_keepalive_connections,
            keepalive_expiry=self.limits.keepalive_expiry,
            ssl_context=httpx.create_ssl_context(verify=self.verify, cert=self.cert, trust_env=self.trust_env),
            http2=self.http2,
        )


def divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what of a meshed client's options is the transport's, and what is httpx's client's."""
    names = {known.name for known in fields(TransportOptions)}
    own = {name: value for name, value in options.items() if name in names}
    clients = {name: value for name, value in options.items() if name not in names or name == "trust_env"}
    return own, clients
