"""Where names are asked for: in the ADS stream, in a file, or nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from meshlib.xds.assembly import Assembly, Offered
from meshlib.xds.config_source import elsewhere
from meshlib.xds.named_files import Found, NamedFiles, also_named
from meshlib.xds.type_urls import SECRET, short

_log = logging.getLogger("meshlib.xds")


class Places:
    """Sends each name to where its ConfigSource says it is. Not thread-safe: one thread owns it.

    A secret of a cluster is never asked of ADS, unless that cluster is where ADS goes. It is asked
    for there by its own name then, and has another name here (:mod:`~meshlib.xds.config_source`).

    Args:
        assembly: takes what files hold.
        ads_clusters: the clusters that ADS goes to.
        post: runs a function in the owner's thread; called from threads that watch files.
        settle: called when a file brought something.
    """

    def __init__(
        self,
        assembly: Assembly,
        ads_clusters: Collection[str],
        post: Callable[[Callable[[], None]], None],
        settle: Callable[[], None],
    ) -> None:
        self._assembly = assembly
        self._ads_clusters = ads_clusters
        self._settle = settle
        self._files = NamedFiles(post, self._take)
        self._aliases: dict[str, set[str]] = {}  # of secrets: by the name the server is asked for, those here

    def added(self, type_url: str, names: Iterable[str]) -> set[str]:
        """Ask for names where that is not for a server; returns what servers are to be asked for."""
        asked = set()
        for name in names:
            where = elsewhere(name)
            if where is None:
                asked.add(name)
            elif where.path:
                self._files.add(type_url, (name,))
            elif type_url == SECRET and where.cluster in self._ads_clusters:
                if not self._assembly.dependencies.wants(SECRET, where.name):  # by that name too
                    asked.add(where.name)
                self._add_alias(where.name, name)
            else:
                _log.warning("type=%s %s: nobody who may be asked has it", short(type_url), name)
                self._assembly.absent(type_url, name)
        return asked

    def gone(self, type_url: str, names: Iterable[str]) -> set[str]:
        """Give names up; returns those that servers are not to be asked for any more."""
        given_up = set()
        for name in names:
            where = elsewhere(name)
            if where is None:
                if type_url != SECRET or not self._aliases.get(name):
                    given_up.add(name)
            elif where.path:
                self._files.drop(type_url, (name,))
            elif where.name in self._aliases:
                self._aliases[where.name].discard(name)
                if not self._aliases[where.name] and not self._assembly.dependencies.wants(SECRET, where.name):
                    given_up.add(where.name)
        return given_up

    def offer(self, type_url: str, version: str, resources: Collection[bytes]) -> Offered:
        """Take what a server sent, under all its names."""
        if type_url != SECRET or not self._aliases:
            return self._assembly.offer(type_url, version, resources)
        offered = self._assembly.offer(type_url, version, resources)
        also = self._assembly.offer(type_url, version, list(also_named(resources, self._aliases)))
        return Offered(offered.names, (*offered.faults, *also.faults), offered.complete, (*offered.fresh, *also.fresh))

    def absent(self, type_url: str, names: Iterable[str]) -> None:
        """A server does not have names (any more)."""
        for name in names:
            for one in (name, *(self._aliases.get(name, ()) if type_url == SECRET else ())):
                self._assembly.absent(type_url, one)

    def close(self) -> None:
        """Stop watching files."""
        self._files.close()

    def _add_alias(self, asked: str, name: str) -> None:
        self._aliases.setdefault(asked, set()).add(name)
        known = self._assembly.cache.entry(SECRET, asked)
        if known is not None and known.resource is not None:  # the server will not send it again
            self._assembly.offer(SECRET, known.version, also_named([known.resource.raw], {asked: {name}}))

    def _take(self, found: Found) -> None:
        url = found.type_url
        if found.broken:
            _log.warning("file=%s cannot be used, what it held stays: %s", found.path, found.broken)
        offered = self._assembly.offer(url, found.version, found.resources)
        if offered.faults:
            said = "; ".join(map(str, offered.faults))
            _log.warning("file=%s refused, last good kept: %s", found.path, said)
        entries = self._assembly.cache.entries(url)
        for name in found.wanted.difference(offered.names):
            if name not in entries:  # as from a server, absence takes nothing away (gRFC A53)
                self._assembly.absent(url, name)
        self._settle()
