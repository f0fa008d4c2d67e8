"""Stateful sessions: the endpoint of a session is told to the caller in a cookie or header, and found again by it.

The address is written as Envoy 1.40 writes it (base64, in a cookie within a small message), so that
sessions go on when callers change between the two.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import NamedTuple

from meshlib.model.endpoint import Endpoint
from meshlib.model.filters import StatefulSession
from meshlib.model.headers import Pair
from meshlib.model.request import RequestView

_ADDRESS = 0x0A  # field 1, a string


class Session(NamedTuple):
    """A call's session.

    Attributes:
        config: of the filter.
        endpoint: address and port that the request asks for, None where it is the first of its session.
    """

    config: StatefulSession
    endpoint: tuple[str, int] | None

    def told(self, endpoint: Endpoint | None) -> Sequence[Pair]:
        """Return the headers that tell the caller of the endpoint that answered; none where it knows."""
        if endpoint is None or endpoint.key == self.endpoint:
            return ()
        address, cookie = str(endpoint).encode(), self.config.cookie
        if cookie is None:
            return ((self.config.name, base64.b64encode(address).decode()),)
        value = base64.b64encode(bytes((_ADDRESS, len(address))) + address).decode()
        return (("set-cookie", cookie.header(self.config.name, value)),)


def session(config: StatefulSession, view: RequestView) -> Session | None:
    """Return the session of a request, None where its path is not the cookie's."""
    if config.cookie is None:
        return Session(config, _address(view.header(config.name)))
    path = config.cookie.path
    inside = view.path == path or view.path.startswith(path if path.endswith("/") else f"{path}/")
    if path and not inside:
        return None
    return Session(config, _address(view.cookie(config.name), cookie=True))


def _address(value: str | None, *, cookie: bool = False) -> tuple[str, int] | None:
    try:
        raw = base64.b64decode(value or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    if cookie and raw[:1] == bytes((_ADDRESS,)) and len(raw) >= 2 + raw[1]:
        raw = raw[2 : 2 + raw[1]]
    host, _, port = raw.decode("latin-1").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() else None
