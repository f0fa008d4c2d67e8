"""What a server dropped stays for a moment, in case it comes back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

from meshlib.xds.timers import Timers
from meshlib.xds.type_urls import ALL_TYPE_URLS


class Leaving:
    """The names on their way out. Not thread-safe: one thread owns it.

    Args:
        grace: seconds that each has, anew each time it is dropped.
        timers: of that thread.
        gone: takes a type and the names of it whose time is over.
    """

    def __init__(self, grace: float, timers: Timers, gone: Callable[[str, Collection[str]], None]) -> None:
        self._grace = grace
        self._timers = timers
        self._gone = gone
        self._since: dict[str, dict[str, object]] = {url: {} for url in ALL_TYPE_URLS}  # by type and name: which time

    def leave(self, type_url: str, names: Collection[str]) -> None:
        """Names were dropped."""
        this_time = object()
        self._since[type_url].update(dict.fromkeys(names, this_time))
        self._timers.later(self._grace, partial(self._over, type_url, tuple(names), this_time))

    def stay(self, type_url: str, names: Iterable[str]) -> None:
        """Names came back, or are not asked for any more."""
        since = self._since[type_url]
        for name in names if since else ():
            since.pop(name, None)

    def _over(self, type_url: str, names: Collection[str], this_time: object) -> None:
        gone = [name for name in names if self._since[type_url].get(name) is this_time]
        self.stay(type_url, gone)
        self._gone(type_url, gone)
