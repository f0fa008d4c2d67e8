"""What every driver of the policy engine does alike, whatever the client library."""

from __future__ import annotations

from meshlib.model.cluster import TransportSocket
from meshlib.model.request import RequestView
from meshlib.policy.call import Policy
from meshlib.policy.effects import Answer, Attempt, ErrorKind
from meshlib.policy.naming import tls_names
from meshlib.upstream.failure import AttemptFailed
from meshlib.upstream.tls import Handshake, TlsUnavailable
from meshlib.upstream.tls_contexts import TlsContexts


def conclude(policy: Policy, answer: Answer) -> None:
    """Give policy its last answer; the call is over."""
    try:
        policy.send(answer)
    except StopIteration:
        return
    raise RuntimeError("policy asked for more after the end of the call")


def handshake(contexts: TlsContexts, effect: Attempt, view: RequestView) -> Handshake | None:
    """Return how TLS is to be spoken on the connection of an attempt, None for plaintext.

    Raises:
        AttemptFailed: TLS is asked for and cannot be spoken; nothing is to be sent.
    """
    socket = effect.transport_socket
    if socket is None or not socket.secure:
        return None
    reason = socket.refusal
    if view.scheme == "https":
        reason = reason or "the URL is https://, whose TLS is the application's: TLS inside TLS is not spoken"
    tls = socket.tls
    if tls is None or reason:
        raise AttemptFailed(ErrorKind.TLS_UNAVAILABLE, refusal(socket, reason), phase="connect")
    server_name, peer_name = tls_names(effect.cluster, tls, effect.endpoint, effect.authority, view)
    try:
        return contexts.handshake(tls, http2=effect.cluster.http2, server_name=server_name, peer_name=peer_name)
    except TlsUnavailable as error:
        raise AttemptFailed(ErrorKind.TLS_UNAVAILABLE, refusal(socket, str(error)), phase="connect") from error


def unsecured(inner: object) -> AttemptFailed:
    """Return the refusal of an attempt over an inner transport that dials by itself and knows nothing of the TLS."""
    message = f"the cluster asks for TLS, and inner={inner!r} would send without it; nothing was sent"
    return AttemptFailed(ErrorKind.TLS_UNAVAILABLE, message, phase="connect")


def refusal(socket: TransportSocket, reason: str) -> str:
    """Say what a transport socket asks for, and why that is not done."""
    asked = f"transport socket {socket.name!r} asks for {socket.detail or 'TLS'}"
    return f"{asked}; it cannot be honoured: {reason}; nothing was sent"
