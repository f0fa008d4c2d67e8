"""Stale: what is in force from the last-known-good file, until servers answer."""

from __future__ import annotations

from collections.abc import Callable

from meshlib.xds.assembly import Assembly, Offered
from meshlib.xds.last_known_good import Contents
from meshlib.xds.type_urls import ALL_TYPE_URLS, SECRET, WILDCARD


class Stale:
    """Gives an assembly what it lacks from a file, and knows what is still from there.

    The client's thread owns it. It goes through :meth:`Assembly.offer` like all else, and names
    are filled in as they come to be asked for.

    Attributes:
        taken: whether there is a file in use.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.taken = False
        self._assembly = assembly
        self._held: Contents = {}
        self._names: dict[str, set[str]] = {url: set() for url in ALL_TYPE_URLS}
        self._replaced: set[str] = set()  # wildcard types of which a server's first whole answer came

    def take(self, held: Contents) -> None:
        """Use what a file holds."""
        self.taken = True
        self._held = held

    def fill(self, silent: Callable[[str], bool]) -> None:
        """Give the assembly what it lacks, and then what that names.

        Args:
            silent: tells of a name whether the server that should answer for it never has.
        """
        if self._held and silent(WILDCARD):
            for url in self._assembly.unanswered:
                self._fill_whole(url)
        while self._held:
            lacking = [
                (url, name)
                for url, name in self._assembly.dependencies.waiting()
                if name in self._held.get(url, ()) and silent(name)
            ]
            found = [self._offer(url, name) for url, name in lacking]
            if not any(found):
                break
        for url, name in self._assembly.dependencies.waiting() if self._held else ():
            if url == SECRET and silent(name):  # never in the file: what needs it refuses, and is not waited for
                self._assembly.absent(url, name)

    def answered(self, type_url: str, offered: Offered, *, whole: bool) -> frozenset[str]:
        """A server answered; returns what only the file knows, to be removed.

        Args:
            type_url: the type.
            offered: what became of its resources.
            whole: whether it is an answer to the wildcard of this type.
        """
        names = self._names[type_url]
        refused = {fault.resource for fault in offered.faults}
        names.difference_update([name for name in offered.names if name not in refused])
        if not whole or not offered.complete or type_url in self._replaced:
            return frozenset()
        self._replaced.add(type_url)
        return frozenset(names.difference(offered.names))

    @property
    def in_force(self) -> bool:
        """Whether anything in force is from the file."""
        for url, names in self._names.items():
            if names:
                entries = self._assembly.cache.entries(url)
                names.intersection_update([n for n in names if n in entries and entries[n].resource is not None])
        return any(self._names.values())

    def _fill_whole(self, type_url: str) -> None:
        held = self._held.get(type_url)
        if held is not None:
            for name in held:
                self._offer(type_url, name)
            self._assembly.complete(type_url)

    def _offer(self, type_url: str, name: str) -> bool:
        kept = self._held[type_url][name]
        offered = self._assembly.offer(type_url, kept.version, [kept.raw])
        self._names[type_url].update(offered.names)
        return name in offered.names
