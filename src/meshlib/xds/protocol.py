"""AdsProtocol: the client's side of ADS, as a machine without bytes, clock or I/O.

Two rules: everything the protocol says about versions, nonces, ACK and NACK happens in this file
and its two variants, :mod:`meshlib.xds.sotw` (state of the world) and :mod:`meshlib.xds.delta`
(incremental); and these files know neither protobuf, nor decoders, nor how time passes. Inputs
are method calls, outputs are returned in order; whoever drives it sends the requests and keeps
the timers.

How it works, in both variants. Each resource type has a subscription of its own, which is always
in one phase; the table of phases is in :mod:`meshlib.xds.subscription`.

- *Names* are asked for and given up by :meth:`AdsProtocol.change`; ``*`` is the wildcard, alone or
  beside names. A name is *known* from its first answer until it is given up, removed or expired,
  on whatever stream. Answers for names that are not subscribed to change nothing.
- *ACK*: a response that is good throughout is answered with its nonce.
- *NACK*: a response with faults is answered with its nonce and every fault. Good resources beside
  faulty ones are used all the same (gRFC A46), and a faulty one is there: it was answered.
- Every response of a type that was asked for on this stream is answered, also when nothing of
  that type is wanted any more. One that was never asked for is ignored.
- On a *new stream* nonces are gone; the node goes with the first request, and everything that is
  subscribed to is asked for again, in the order of the types.
- *Does not exist*: a name that is not known when it is asked for has a timer from the request on;
  what is unanswered when it ends is missing (gRFC A57). The timers of a stream end with it, and
  an answer of any kind ends a name's timer. A name may come after it was said to be missing.
- *TTL* (xDS protocol, "TTL"): a resource that has one expires unless it, or a heartbeat of it, comes
  in time. These timers run on while there is no stream: that is what they are for.
- What is given up is unsubscribed from, and only when that is so is its value to be forgotten
  (``Unsubscribed``): what is still subscribed to is not sent again when it is asked for again.

The cost of a response is that of what it holds, the cost of a change that of the names in it
(and in SotW of one list of all names, which goes out with it). A name costs a place in a set
and in a dict, nothing of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from meshlib.xds.subscription import Input, Phase, Subscription
from meshlib.xds.type_urls import FULL_STATE, TYPE_URLS, WILDCARD


class Variant(Enum):
    """The two variants of ADS; the value is the method of ``AggregatedDiscoveryService``."""

    SOTW = "StreamAggregatedResources"
    DELTA = "DeltaAggregatedResources"


@dataclass(frozen=True, slots=True)
class Response:
    """Input: a (Delta)DiscoveryResponse whose resources were decoded.

    Attributes:
        type_url: its type.
        version: ``version_info``, in delta ``system_version_info``.
        nonce: its nonce.
        names: every resource in it whose name could be read, faulty or not.
        faults: every fault in it, in words; resources with one keep their last good value.
        complete: SotW: whether every name could be read; if not, nothing counts as absent.
        removed: delta: ``removed_resources``.
        versions: delta: ``Resource.version`` of the resources that were accepted, and of the
            heartbeats; istiod leaves it empty, and then an empty string goes in.
        ttls: ``Resource.ttl`` in seconds, of accepted resources and heartbeats that have one.
        heartbeats: names of resources without a resource, which only restart the TTL.
    """

    type_url: str
    version: str
    nonce: str
    names: Collection[str]
    faults: Collection[str] = ()
    complete: bool = True
    removed: Collection[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    ttls: Mapping[str, float] = field(default_factory=dict)
    heartbeats: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """Output, SotW: send a DiscoveryRequest.

    Attributes:
        type_url: its type.
        names: ``resource_names``, sorted; the same object until the names change, so that its
            encoding can be kept.
        version: ``version_info``: the last version accepted whole.
        nonce: ``response_nonce`` of the last response on this stream.
        error: ``error_detail``: why the response is refused; empty for an ACK.
        with_node: whether the node goes with it, as on the first request of a stream.
    """

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: str = ""
    with_node: bool = False


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """Output, delta: send a DeltaDiscoveryRequest.

    Attributes:
        type_url: its type.
        subscribe: ``resource_names_subscribe``, sorted.
        unsubscribe: ``resource_names_unsubscribe``, sorted.
        initial_versions: ``initial_resource_versions``: what is had already, on the first request
            of the type on this stream.
        nonce: ``response_nonce`` of the response that is answered; empty when none is.
        error: ``error_detail``: why the response is refused; empty for an ACK.
        with_node: whether the node goes with it, as on the first request of a stream.
    """

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str = ""
    with_node: bool = False


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Output: give back to :meth:`AdsProtocol.timeout` after the does-not-exist time.

    It may be given back in parts (``dataclasses.replace(timer, names=...)``), where that time
    differs by name. The wildcard is a name: missing means that nothing came at all.
    """

    type_url: str
    names: frozenset[str]
    serial: int


@dataclass(frozen=True, slots=True)
class StartTtl:
    """Output: give back to :meth:`AdsProtocol.timeout` after so many seconds, stream or no stream."""

    type_url: str
    name: str
    seconds: float
    serial: int


@dataclass(frozen=True, slots=True)
class Removed:
    """Output: these resources were there and are not any more."""

    type_url: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Missing:
    """Output: these names were asked for and the server does not know them."""

    type_url: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """Output: these are not subscribed to any more; forget their values, for they come anew if asked for."""

    type_url: str
    names: frozenset[str]


Output = Request | DeltaRequest | StartTimer | StartTtl | Removed | Missing | Unsubscribed


class AdsProtocol(ABC):
    """The client's side of ADS. Not thread-safe: one thread owns it.

    One machine is one server's: versions of one mean nothing to another.

    Args:
        type_urls: the types there may be subscriptions to, in the order in which they are
            asked for on a new stream.
        full_state: those of which a SotW response holds everything there is.
    """

    variant: ClassVar[Variant]

    def __init__(self, type_urls: Iterable[str] = TYPE_URLS, full_state: Collection[str] = FULL_STATE) -> None:
        self._types = {url: Subscription() for url in type_urls}
        self._full_state = frozenset(full_state)
        self._connected = False
        self._node_sent = False
        self._serial = 0

    @property
    def connected(self) -> bool:
        """Whether a stream is open."""
        return self._connected

    def phase(self, type_url: str) -> Phase:
        """Return where the subscription of a type is."""
        return self._types[type_url].phase

    def version(self, type_url: str) -> str:
        """Return the last version of a type that was accepted whole."""
        return self._types[type_url].version

    def names(self, type_url: str) -> Collection[str]:
        """Return what is subscribed to, ``*`` included; a view, not to be kept."""
        return self._types[type_url].names

    def expects(self, type_url: str) -> bool:
        """Tell whether a response of a type answers anything that was asked on this stream."""
        sub = self._types.get(type_url)
        return sub is not None and sub.asked

    def opened(self) -> list[Output]:
        """A new stream is connected: ask for everything again."""
        self._connected = True
        self._node_sent = False
        out: list[Output] = []
        for url, sub in self._types.items():
            sub.step(Input.OPEN)
            sub.nonce = ""
            sub.explicit = False
            out += self._begin(url, sub)
        return out

    def closed(self) -> list[Output]:
        """The stream ended; what is known stays known, and no timer runs but those of TTLs. Idempotent."""
        self._connected = False
        for sub in self._types.values():
            if sub.phase is not Phase.OFFLINE:
                sub.step(Input.CLOSE)
            sub.awaited.clear()
        return []

    def change(self, type_url: str, added: Collection[str] = (), gone: Collection[str] = ()) -> list[Output]:
        """Ask for names and give up others; asks only when that is a change.

        Args:
            type_url: their type.
            added: names to ask for; those that are asked for already stay as they are.
            gone: names to give up; those that are not asked for, or are in ``added`` too, are passed over.
        """
        sub = self._types[type_url]
        new = frozenset(name for name in added if name not in sub.names)
        old = frozenset(name for name in gone if name in sub.names).difference(added)
        if not new and not old:
            return []
        sub.names |= new
        sub.names -= old
        dropped = self._drop(sub, old)
        out: list[Output] = []
        if sub.asked:
            sub.step(Input.ASK)
            out += [self._update(type_url, sub, new, old), *self._await(type_url, sub, sub.unknown(new))]
        elif self._connected:
            out += self._begin(type_url, sub)
        if dropped:
            out.append(Unsubscribed(type_url, dropped))
        return out

    def response(self, response: Response) -> list[Output]:
        """A response arrived; its answer comes first. One that answers nothing that was asked is ignored."""
        if not self.expects(response.type_url):
            return []
        sub = self._types[response.type_url]
        sub.nonce = response.nonce
        sub.step(Input.REJECT if response.faults else Input.ACCEPT)
        if not response.faults:
            sub.version = response.version
            sub.whole = WILDCARD in sub.names
        answer = self._answer(response.type_url, sub, "; ".join(response.faults))
        # What is deleted counts against what was known before.
        deleted = self._deleted(sub, response)
        self._learn(sub, response)
        return [answer, *self._delete(response.type_url, sub, deleted), *self._restart_ttls(sub, response)]

    def timeout(self, timer: StartTimer | StartTtl) -> list[Output]:
        """The time of ``timer`` has passed; says nothing when it was answered, or its stream is gone."""
        sub = self._types[timer.type_url]
        if isinstance(timer, StartTtl):
            return self._expire(timer, sub) if sub.ttls.get(timer.name) == timer.serial else []
        missing = frozenset(name for name in timer.names if sub.awaited.get(name) == timer.serial)
        for name in missing:
            del sub.awaited[name]
        return [Missing(timer.type_url, missing)] if missing else []

    # What the variants say differently.

    @abstractmethod
    def _first(self, type_url: str, sub: Subscription) -> Output:
        """Return the first request of a type on a stream."""

    @abstractmethod
    def _update(self, type_url: str, sub: Subscription, new: frozenset[str], old: frozenset[str]) -> Output:
        """Return the request that changes the names."""

    @abstractmethod
    def _answer(self, type_url: str, sub: Subscription, error: str) -> Output:
        """Return the ACK or NACK of the last response."""

    @abstractmethod
    def _deleted(self, sub: Subscription, response: Response) -> Iterable[str]:
        """Return what a response says is not there."""

    def _expire(self, timer: StartTtl, sub: Subscription) -> list[Output]:
        """A TTL ran out."""
        return self._delete(timer.type_url, sub, (timer.name,))

    # What they share.

    def _with_node(self) -> bool:
        first, self._node_sent = not self._node_sent, True
        return first

    def _begin(self, type_url: str, sub: Subscription) -> list[Output]:
        """Ask for a type for the first time on this stream, if there is anything to ask for."""
        if not sub.names:
            return []  # an empty list would be a wildcard
        awaited = sub.unknown(sub.names)
        sub.step(Input.ASK)
        return [self._first(type_url, sub), *self._await(type_url, sub, awaited)]

    def _await(self, type_url: str, sub: Subscription, names: frozenset[str]) -> list[Output]:
        if not names:
            return []
        self._serial += 1
        sub.awaited.update(dict.fromkeys(names, self._serial))
        return [StartTimer(type_url, names, self._serial)]

    def _drop(self, sub: Subscription, old: frozenset[str]) -> frozenset[str]:
        """Forget names that were given up; returns those that nothing subscribes to any more."""
        for name in old:
            sub.awaited.pop(name, None)
        if WILDCARD in old:
            sub.whole = False
            came_by_wildcard = (name for name in sub.known if name not in sub.names)
            dropped = old.union(came_by_wildcard) - {WILDCARD}
        elif WILDCARD in sub.names:
            # Whether the wildcard holds it, too, the server says next ("Unsubscribing from Resources").
            dropped = old.difference(sub.known)
        else:
            dropped = old
        for name in dropped:
            sub.known.pop(name, None)
            sub.ttls.pop(name, None)
        return dropped

    def _learn(self, sub: Subscription, response: Response) -> None:
        versions, known = response.versions, sub.known
        sub.awaited.pop(WILDCARD, None)
        # What comes unasked, or after it was given up, is not known: asked for again, it is awaited.
        every = WILDCARD in sub.names
        names = response.names if every else [name for name in response.names if name in sub.names]
        for name in names:
            known.setdefault(name, "")
        if versions:
            known.update((name, versions[name]) for name in names if name in versions)
        if sub.awaited:
            for name in names:
                sub.awaited.pop(name, None)

    def _delete(self, type_url: str, sub: Subscription, names: Iterable[str]) -> list[Output]:
        removed: set[str] = set()
        missing: set[str] = set()
        for name in names:
            sub.awaited.pop(name, None)
            sub.ttls.pop(name, None)
            if name in sub.known:
                del sub.known[name]
                removed.add(name)
            elif name in sub.names and name not in removed:
                missing.add(name)
        out: list[Output] = []
        if removed:
            out.append(Removed(type_url, frozenset(removed)))
        if missing:
            out.append(Missing(type_url, frozenset(missing)))
        return out

    def _restart_ttls(self, sub: Subscription, response: Response) -> list[Output]:
        out: list[Output] = []
        if sub.ttls and not response.faults:
            # "To remove the TTL, the management server resends the resource with the TTL field unset."
            for name in (*response.names, *response.heartbeats):
                if name not in response.ttls:
                    sub.ttls.pop(name, None)
        beating = frozenset(response.heartbeats)
        for name, seconds in response.ttls.items():
            if name not in sub.known:
                continue
            held = sub.known[name]
            if name in beating and response.versions.get(name, held) != held:
                continue  # of a version that was refused: the one in force gets no longer life by it
            self._serial += 1
            sub.ttls[name] = self._serial
            out.append(StartTtl(response.type_url, name, seconds, self._serial))
        return out
