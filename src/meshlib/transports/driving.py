"""What every driver of the policy engine does alike, whatever the client library."""

from __future__ import annotations

from meshlib.policy.call import Policy
from meshlib.policy.effects import Answer, Attempt, ErrorKind, Outcome


def conclude(policy: Policy, answer: Answer) -> None:
    """Give policy its last answer; the call is over."""
    try:
        policy.send(answer)
    except StopIteration:
        return
    raise RuntimeError("policy asked for more after the end of the call")


def insecure(effect: Attempt) -> Outcome | None:
    """Return the refusal of an attempt whose TLS cannot be honoured, None when there is no TLS to honour."""
    socket = effect.transport_socket
    if socket is None or not socket.secure:
        return None
    return Outcome(
        error=ErrorKind.TLS_UNAVAILABLE,
        message=(
            f"transport socket {socket.name!r} asks for TLS ({socket.detail or 'no detail'}) and this version of "
            "meshlib has no client identity; nothing was sent. Set trafficPolicy.tls.mode DISABLE for plaintext"
        ),
        written=False,
    )
