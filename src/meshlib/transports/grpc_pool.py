"""Channels to endpoints: one per cluster, endpoint and authority, kept while the endpoint is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from meshlib.errors import MeshError
from meshlib.model.request import RequestView
from meshlib.policy.effects import Attempt
from meshlib.transports import grpc_forks
from meshlib.transports.grpc_security import ChannelTls, channel_tls, secured
from meshlib.transports.grpc_translate import Options, channel_options, dial_target

ChannelT = TypeVar("ChannelT")
Key = tuple[str, tuple[str, int], str, float, ChannelTls | None]

# Channels inherited over a fork. Closing or collecting one would touch the parent's connections.
_INHERITED: list[Any] = []


class Lease(Generic[ChannelT]):
    """The use of a channel by one attempt; given back when its RPC is over.

    Attributes:
        channel: the plain grpc channel to the endpoint.
    """

    __slots__ = ("channel", "key", "stale", "users")

    def __init__(self, key: Key, channel: ChannelT) -> None:
        self.key = key
        self.channel = channel
        self.users = 0
        self.stale = False


class ChannelPool(Generic[ChannelT]):
    """The channels of one mesh channel. Thread-safe; it decides, its owner closes.

    Args:
        connect: makes a channel from a grpc target, options and credentials, None for plaintext; it
            connects on first use.
        options: the application's channel options.
    """

    def __init__(self, connect: Callable[[str, Options, Any], ChannelT], options: Options) -> None:
        grpc_forks.register()
        self._connect = connect
        self._options = options
        self._lock = threading.Lock()
        self._leases: dict[Key, Lease[ChannelT]] = {}
        self._unused: list[ChannelT] = []

    def take(self, effect: Attempt, view: RequestView) -> Lease[ChannelT]:
        """Return the channel to the attempt's endpoint, made on first use.

        Raises:
            MeshError: gRPC does not work in this process, for how it was forked.
            AttemptFailed: the endpoint wants TLS that cannot be spoken.
        """
        cluster, tls = effect.cluster, channel_tls(effect, view)
        key = (cluster.name, effect.endpoint.key, effect.authority, cluster.connect_timeout, tls)
        with self._lock:
            lease = self._leases.get(key)
            if lease is None:
                if grpc_forks.unusable:
                    raise MeshError(grpc_forks.unusable)
                options = channel_options(self._options, effect.authority, cluster.connect_timeout)
                channel = self._connect(dial_target(effect.endpoint), *secured(options, tls))
                for old in [old for old in self._leases.values() if old.key[:4] == key[:4]]:
                    self._drop(old)  # of settings or certificates that have changed
                lease = self._leases[key] = Lease(key, channel)
            lease.users += 1
            return lease

    def give_back(self, lease: Lease[ChannelT], *, broken: bool = False) -> None:
        """End a use. ``broken`` makes the next attempt dial anew, where grpc would wait for its back-off."""
        with self._lock:
            lease.users -= 1
            if broken:
                self._drop(lease)
            elif lease.stale and not lease.users:
                self._unused.append(lease.channel)

    def retire(self, has_endpoint: Callable[[str, tuple[str, int]], bool]) -> None:
        """Drop the channels to endpoints that left; RPCs under way on them go on."""
        with self._lock:
            for lease in list(self._leases.values()):
                if not has_endpoint(lease.key[0], lease.key[1]):
                    self._drop(lease)

    def unused(self) -> list[ChannelT]:
        """Return the dropped channels whose last use has ended, for the owner to close."""
        if not self._unused:
            return []
        with self._lock:
            unused, self._unused = self._unused, []
            return unused

    def empty(self) -> list[ChannelT]:
        """Drop everything; returns all channels, for the owner to close, which cancels their RPCs."""
        with self._lock:
            channels = [lease.channel for lease in self._leases.values()] + self._unused
            self._leases, self._unused = {}, []
            return channels

    def forget(self) -> None:
        """Leave everything to the parent process, unclosed; for a forked child."""
        _INHERITED.append((self._leases, self._unused))
        self._lock = threading.Lock()
        self._leases, self._unused = {}, []

    def _drop(self, lease: Lease[ChannelT]) -> None:
        lease.stale = True
        if self._leases.get(lease.key) is lease:
            del self._leases[lease.key]
        if not lease.users:
            self._unused.append(lease.channel)
