"""Authority: which servers answer for which names, and which of them is asked (gRFC A47, A71).

When the server in use fails and something asked for is not there yet, the next one is asked; once
a server of higher priority answers, the ones below it are given up. What is in force stays in
force throughout.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from tenacity.wait import wait_base

from meshlib.model.snapshot import Style
from meshlib.xds.assembly import Assembly
from meshlib.xds.bootstrap_parts import Bootstrap, Server, authority_of
from meshlib.xds.channel import Channel, Owner
from meshlib.xds.type_urls import ALL_TYPE_URLS

_log = logging.getLogger("meshlib.xds")


class Authority:
    """One authority's servers, best first. The client's thread owns it.

    Args:
        name: the authority of ``xdstp://`` names; empty for names that are none.
        servers: its servers, best first.
        channel_to: returns the channel to a server, which other authorities may share.

    Attributes:
        channels: those in use, best first; the last is the one that is relied on.
    """

    def __init__(self, name: str, servers: tuple[Server, ...], channel_to: _Channels) -> None:
        self.name = name
        self.channels: list[Channel] = []
        self._servers = servers
        self._channel_to = channel_to
        self._names: dict[str, set[str]] = {url: set() for url in ALL_TYPE_URLS}

    @property
    def active(self) -> Channel | None:
        """The channel relied on."""
        return self.channels[-1] if self.channels else None

    def version(self, type_url: str) -> str:
        """Return the last version of a type accepted from the server relied on."""
        return self.channels[-1].version(type_url) if self.channels else ""

    def owns(self, name: str) -> bool:
        """Tell whether this authority answers for a name."""
        return (authority_of(name) or "") == self.name

    def start(self) -> None:
        """Connect to the best server; that of ``xdstp:`` names is connected to when one is asked for."""
        if not self.name and not self.channels:
            self._use_next()

    def change(self, type_url: str, added: set[str], gone: set[str]) -> None:
        """Ask for names and give up others."""
        self._names[type_url] |= added
        self._names[type_url] -= gone
        if not self.channels:
            self._use_next()
            return
        for channel in self.channels:
            channel.change(type_url, added, gone)

    def fall_back(self, assembly: Assembly) -> None:
        """Turn to the next server if the one relied on fails and something is lacking."""
        if not self.channels or not self.channels[-1].failing or len(self.channels) == len(self._servers):
            return
        if any(not assembly.has(url, name) for url, names in self._names.items() for name in names):
            _log.warning(
                "server=%s fails and not all is here: falling back to server=%s",
                self.channels[-1].server.address,
                self._servers[len(self.channels)].address,
            )
            self._use_next()

    def answered(self, channel: Channel) -> bool:
        """A server answered: those below it are given up; tells whether it is one of the main authority's."""
        if channel not in self.channels:
            return False
        at = self.channels.index(channel)
        for lower in self.channels[at + 1 :]:
            _log.info("server=%s answers again: server=%s is given up", channel.server.address, lower.server.address)
            for url, names in self._names.items():
                lower.change(url, (), names)
            self._channel_to.release(lower)
        del self.channels[at + 1 :]
        return not self.name

    def _use_next(self) -> None:
        channel = self._channel_to(self._servers[len(self.channels)])
        self.channels.append(channel)
        for url, names in self._names.items():
            if names:
                channel.change(url, names, ())
        channel.connect()


class _Channels:
    """One channel a server, however many authorities use it."""

    def __init__(self, owner: Owner, reconnect: wait_base, *, sotw: bool) -> None:
        self._owner = owner
        self._reconnect = reconnect
        self._sotw = sotw
        self._open: dict[Server, tuple[Channel, int]] = {}

    def __call__(self, server: Server) -> Channel:
        channel, users = self._open.get(server) or (Channel(server, self._owner, self._reconnect, sotw=self._sotw), 0)
        self._open[server] = channel, users + 1
        return channel

    def release(self, channel: Channel) -> None:
        """One authority less uses it."""
        _, users = self._open[channel.server]
        if users > 1:
            self._open[channel.server] = channel, users - 1
        else:
            del self._open[channel.server]
            channel.close()


def authorities_of(bootstrap: Bootstrap, owner: Owner, reconnect: wait_base) -> Mapping[str, Authority]:
    """Return the authorities of a bootstrap by name; the empty name is that of all other names."""
    # istiod's generator for gRPC nodes loses watches in delta.
    channels = _Channels(owner, reconnect, sotw=bootstrap.style is Style.GRPC)
    found = {"": Authority("", bootstrap.servers, channels)}
    for name, authority in bootstrap.authorities.items():
        found[name] = Authority(name, authority.servers or bootstrap.servers, channels)
    return found


def by_authority(names: Iterable[str]) -> dict[str, set[str]]:
    """Return names by the authority that answers for them."""
    found: dict[str, set[str]] = {}
    for name in names:
        authority = authority_of(name) or ""
        if authority not in found:
            found[authority] = set()
        found[authority].add(name)
    return found
