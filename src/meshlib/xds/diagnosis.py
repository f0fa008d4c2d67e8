"""Why a management server could not be reached or refused us, in words, and what to check."""

from __future__ import annotations

import base64
import binascii
import json
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from meshlib.errors import BootstrapError
from meshlib.xds.bootstrap_parts import Server
from meshlib.xds.credentials import Insecure, Tls, Token
from meshlib.xds.frames import NotHttp2

# OpenSSL's X509_V_ERR_*
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
_TLS_ALERT = b"\x15\x03"  # how the record of an alert begins
# What a server says of our certificate (RFC 8446, 6.2), by words in the names of OpenSSL's alerts.
_OF_OUR_CERTIFICATE = {
    "CERTIFICATE_EXPIRED": "expired",
    "UNKNOWN_CA": "of a CA it does not know",
    "CERTIFICATE_REVOKED": "revoked",
    "BAD_CERTIFICATE": "bad",
    "UNSUPPORTED_CERTIFICATE": "of a kind it does not take",
    "CERTIFICATE_UNKNOWN": "not acceptable to it",
}


def unreachable(error: Exception, server: Server) -> str:
    """Return why a connection did not come about.

    Args:
        error: what dialling, the TLS handshake or the first bytes of HTTP/2 raised; an ``EOFError``
            where the server closed the connection.
        server: who was to be connected to.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _server_s_certificate(error, server)
    if isinstance(error, EOFError | ConnectionResetError | BrokenPipeError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _closed(server)
    if isinstance(error, ssl.SSLError):
        return _handshake(error.reason or str(error), server)
    if isinstance(error, NotHttp2):
        return _not_http2(error.first)
    return broken(error)


def broken(error: Exception) -> str:
    """Return what the system says of a connection that broke."""
    text = str(getattr(error, "strerror", "") or error)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def advice(code: str, server: Server, node: Any, now: float | None = None) -> str:
    """Return what to check after a refusal, empty where the reason says everything.

    UNAUTHENTICATED is about who we prove to be, PERMISSION_DENIED about who we say we are. Reads
    the token's claims, and never shows the token.

    Args:
        code: the gRPC status's name.
        server: who refused.
        node: the ``core.v3.Node`` that was sent.
        now: seconds since the epoch.
    """
    if code == "UNAUTHENTICATED":
        return _prove(server, time.time() if now is None else now)
    if code == "PERMISSION_DENIED":
        said = ", ".join(f"{key} {_text(node, key)}" for key in ("NAMESPACE", "SERVICE_ACCOUNT"))
        return f"the identity may not be this node, which says {said}: {_identity(server)}; make them agree"
    return ""


def claims(token: str) -> Mapping[str, Any]:
    """Return the claims of a JWT, unverified; empty for another kind of token."""
    try:
        body = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, binascii.Error, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _server_s_certificate(error: ssl.SSLCertVerificationError, server: Server) -> str:
    credentials = server.credentials
    root_ca = credentials.root_ca if isinstance(credentials, Tls) else None
    root = root_ca.place if root_ca is not None else "the system's roots"
    if error.verify_code in _OTHER_NAME:
        name = credentials.server_name if isinstance(credentials, Tls) else ""
        return (
            f"the server's certificate is not for {name or server.address!r}: "
            "wrong server, or name the one it is for as server_name"
        )
    if error.verify_code == _EXPIRED:
        return "the server's certificate (or one of its chain) has expired: renew it, or set this machine's clock"
    if error.verify_code == _NOT_YET_VALID:
        return "the server's certificate is not valid yet: set this machine's clock"
    return f"the server's certificate is not signed by a CA in {root} (unknown CA: {error.verify_message})"


def _closed(server: Server) -> str:
    credentials = server.credentials
    if not isinstance(credentials, Tls):
        return "closed the plaintext connection at once: does it want TLS on this port?"
    if credentials.certificate is None:
        return "closed the connection in the TLS handshake: does it want a client certificate?"
    return f"refused the client certificate in {credentials.certificate.place}: expired, or of a CA it does not know"


def _handshake(reason: str, server: Server) -> str:
    """Return what OpenSSL's reason means, which is an alert where the server gave it."""
    if reason in _NO_TLS:
        return "the server does not speak TLS on this port"
    certificate = server.credentials.certificate if isinstance(server.credentials, Tls) else None
    if certificate is not None:
        for word, meaning in _OF_OUR_CERTIFICATE.items():
            if word in reason:
                return f"refused the client certificate in {certificate.place}: {meaning}"
    if "CERTIFICATE_REQUIRED" in reason or (certificate is None and "HANDSHAKE_FAILURE" in reason):
        return _closed(server)
    if "NO_APPLICATION_PROTOCOL" in reason:
        return "the server does not speak HTTP/2 by TLS (ALPN), so no gRPC"
    if "UNRECOGNIZED_NAME" in reason:
        return "the server knows no certificate for this name: give the one it has as server_name"
    return f"TLS failed: {reason.replace('_', ' ').lower()}"


def _not_http2(first: bytes) -> str:
    if first.startswith(_TLS_ALERT):
        return "closed the plaintext connection at once: does it want TLS on this port?"
    if first.startswith(b"HTTP/"):
        return "the server speaks HTTP/1 on this port, not HTTP/2, so no gRPC"
    return "the server does not speak HTTP/2 on this port, so no gRPC"


def _prove(server: Server, now: float) -> str:
    credentials = server.credentials
    if isinstance(credentials, Insecure):
        return "the server wants to know who asks, which plaintext cannot prove: use TLS (istiod: port 15012)"
    if credentials.token is not None:
        return f"check {_described(credentials.token, now)}"
    if isinstance(credentials, Tls) and credentials.certificate is not None:
        return f"check the client certificate in {credentials.certificate.place}: its expiry, and that its CA is known"
    return "neither a token nor a client certificate was sent: give token_file or certificate"


def _described(token: Token, now: float) -> str:
    try:
        found = claims(token.read())
    except BootstrapError as error:
        return str(error)
    place = f"the token in {token.place}"
    if not found:
        return f"{place}: it is no JWT"
    expiry = found.get("exp")
    lasts = "it never expires"
    if isinstance(expiry, int | float):
        at = _time(expiry)
        lasts = f"it expired at {at}" if expiry <= now else f"it is valid until {at}"
    return f"{place}: {lasts}, its audience is {_list(found.get('aud'))}, its issuer {found.get('iss', 'not named')}"


def _identity(server: Server) -> str:
    credentials = server.credentials
    if not isinstance(credentials, Insecure) and credentials.token is not None:
        try:
            subject = claims(credentials.token.read()).get("sub", "not named")
        except BootstrapError as error:
            return str(error)
        return f"the token in {credentials.token.place} is of {subject}"
    if isinstance(credentials, Tls) and credentials.certificate is not None:
        return f"the client certificate in {credentials.certificate.place} is of another"
    return "no token and no client certificate was sent"


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "a time no clock can show"


def _list(found: object) -> str:
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found or "not named")


def _text(node: Any, key: str) -> str:
    fields = node.metadata.fields
    return fields[key].string_value or "(nothing)" if key in fields else "(nothing)"
