"""Why a management server could not be reached or refused us, in words, and what to check."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from meshlib.errors import BootstrapError
from meshlib.xds.bootstrap_parts import Server
from meshlib.xds.credentials import Insecure, Tls, Token

_UNREACHABLE = ("connect", "resolving", "Handshake", "handshake", "security handshaker")


def reason(code: str, details: str, server: Server) -> str:
    """Return why a stream failed: the innermost reason of a failed connection, else code and details.

    Args:
        code: the gRPC status's name.
        details: the gRPC status's message.
        server: who was asked.
    """
    if code == "UNAVAILABLE" and any(word in details for word in _UNREACHABLE):
        return _handshake(details, server) or _innermost(details)
    return f"{code}: {details}" if details else code


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


def _handshake(details: str, server: Server) -> str:
    credentials = server.credentials
    if not isinstance(credentials, Tls):
        if "Socket closed" in details:
            return "closed the plaintext connection at once: does it want TLS on this port?"
        return ""
    root = credentials.root_ca.place if credentials.root_ca is not None else "the system's roots"
    name = credentials.server_name or server.address
    if "Hostname Verification" in details:
        return f"the server's certificate is not for {name!r}: wrong server, or name the one it is for as server_name"
    if "has expired" in details:
        return "the server's certificate (or one of its chain) has expired: renew it, or set this machine's clock"
    if "not yet valid" in details:
        return "the server's certificate is not valid yet: set this machine's clock"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        why = details.rpartition("CERTIFICATE_VERIFY_FAILED: ")[2].removesuffix(": OK")
        return f"the server's certificate is not signed by a CA in {root} (unknown CA: {why})"
    if "WRONG_VERSION_NUMBER" in details:
        return "the server does not speak TLS on this port"
    if "security handshaker" in details:
        return "the root CA, certificate or private key of the bootstrap is no PEM, or key and certificate differ"
    if "Socket closed" in details:
        if credentials.certificate is None:
            return "closed the connection in the TLS handshake: does it want a client certificate?"
        return (
            f"refused the client certificate in {credentials.certificate.place}: expired, or of a CA it does not know"
        )
    return ""


def _innermost(details: str) -> str:
    found = str(details.rpartition(": ")[2]).strip(" ].")
    return found[:1].lower() + found[1:]


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
