"""Local rate limit: token buckets of this process, as Envoy's ``local_ratelimit`` filter has them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

from meshlib.clock import Clock
from meshlib.model.filter_chain import SOURCE_ADDRESS
from meshlib.model.filters import (
    DescriptorAction,
    From,
    LocalRateLimit,
    RateLimitRule,
    TokenBucket,
    VirtualHostLimits,
)
from meshlib.model.match import Predicate
from meshlib.model.request import RequestView
from meshlib.policy.limits import mutex

Entries = tuple[tuple[str, str], ...]


class Bucket:
    """A token bucket under way; guarded by the lock of its :class:`Buckets`."""

    __slots__ = ("_at", "_tokens", "config")

    def __init__(self, config: TokenBucket, now: float) -> None:
        self.config = config
        self._tokens = float(config.max_tokens)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False where there is none."""
        self._tokens = min(self.config.max_tokens, self._tokens + (now - self._at) * self.config.rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def remaining(self) -> int:
        """Whole tokens left when one was last asked for."""
        return int(self._tokens)

    @property
    def reset(self) -> int:
        """Seconds until there is a token, 0 where there is one."""
        missing = 1.0 - self._tokens
        return math.ceil(missing / self.config.rate - 1e-6) if missing > 0 else 0


class Taken(NamedTuple):
    """What came of taking tokens.

    Attributes:
        allowed: whether there was one in each bucket.
        told: the bucket to tell of: that which was empty, else a descriptor's, else the default.
        remaining: whole tokens left in it.
        reset: seconds until it has one, 0 where it does.
    """

    allowed: bool
    told: TokenBucket | None
    remaining: int
    reset: int


class Buckets:
    """The buckets of one :class:`LocalRateLimit`. Thread-safe."""

    def __init__(self, config: LocalRateLimit, now: float) -> None:
        self._config = config
        self._lock = mutex()
        self._default = Bucket(config.bucket, now) if config.bucket is not None else None
        self._exact = {d.entries: Bucket(d.bucket, now) for d in config.descriptors if all(v for _, v in d.entries)}
        self._open = [d for d in config.descriptors if not all(value for _, value in d.entries)]
        self._made: dict[Entries, Bucket] = {}

    def take(self, descriptors: list[Entries], now: float) -> Taken:
        """Take a token of every bucket that counts a request."""
        with self._lock:
            allowed, told = self._take(descriptors, now)
            if told is None:
                return Taken(allowed, None, 0, 0)
            return Taken(allowed, told.config, told.remaining, told.reset)

    def _take(self, descriptors: list[Entries], now: float) -> tuple[bool, Bucket | None]:
        matched = [bucket for entries in descriptors if (bucket := self._find(entries, now)) is not None]
        matched.sort(key=lambda bucket: bucket.config.rate)
        for bucket in matched:
            if not bucket.take(now):
                return False, bucket
        told = matched[0] if matched else self._default
        if self._default is None or (matched and not self._config.always_default):
            return True, told
        if not self._default.take(now):
            return False, self._default
        return True, told

    def _find(self, entries: Entries, now: float) -> Bucket | None:
        found = self._exact.get(entries) or self._made.get(entries)
        if found is not None:
            return found
        for descriptor in self._open:
            pairs = zip(descriptor.entries, entries, strict=False)
            if len(descriptor.entries) == len(entries) and all(_fits(*pair) for pair in pairs):
                if len(self._made) >= self._config.most_values:
                    self._made.pop(next(iter(self._made)))  # the oldest
                return self._made.setdefault(entries, Bucket(descriptor.bucket, now))
        return None


def _fits(wanted: tuple[str, str], given: tuple[str, str]) -> bool:
    return wanted[0] == given[0] and wanted[1] in ("", given[1])


class RateLimits:
    """The buckets of a mesh, by configuration: what is configured anew begins anew. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.forked()

    def forked(self) -> None:
        """Begin anew: in a forked child the locks may be held."""
        self._lock = mutex()
        self._buckets: WeakKeyDictionary[LocalRateLimit, Buckets] = WeakKeyDictionary()

    def of(self, config: LocalRateLimit) -> Buckets:
        """Return the buckets of a configuration."""
        with self._lock:
            found = self._buckets.get(config)
            if found is None:
                found = self._buckets[config] = Buckets(config, self._clock())
            return found


def rules(
    config: LocalRateLimit, route: tuple[RateLimitRule, ...], host: tuple[RateLimitRule, ...], *, include: bool
) -> Iterator[RateLimitRule]:
    """Yield the rules that make a request's descriptors.

    Args:
        config: the filter's.
        route: ``rate_limits`` of the route.
        host: ``rate_limits`` of the virtual host.
        include: ``include_vh_rate_limits`` of the route.
    """
    if config.rules:
        yield from config.rules
        return
    own = [rule for rule in route if rule.stage == config.stage]
    yield from own
    option = config.virtual_host
    if include or option is VirtualHostLimits.INCLUDE or (option is VirtualHostLimits.OVERRIDE and not own):
        yield from (rule for rule in host if rule.stage == config.stage)


def descriptor(rule: RateLimitRule, view: RequestView, cluster: str) -> Entries | None:
    """Return the descriptor that a rule makes of a request, None for none."""
    entries = []
    for action in rule.actions:
        value = _value(action, view, cluster)
        if value is not None:
            entries.append((action.key, value))
        elif not action.skip_if_absent:
            return None
    return tuple(entries) or None


def _value(action: DescriptorAction, view: RequestView, cluster: str) -> str | None:
    if action.source is From.CONSTANT:
        return action.value
    if action.source is From.HEADER:
        return ",".join(values) if (values := view.values(action.name)) else None
    if action.source is From.QUERY:
        return view.parameter(action.name)
    if action.source is From.ADDRESS:
        return SOURCE_ADDRESS
    if action.source is From.CLUSTER:
        return cluster
    matches = all(condition(view) for condition in _conditions(action))
    return action.value if matches is action.expect else None


@lru_cache(maxsize=256)
def _conditions(action: DescriptorAction) -> tuple[Predicate, ...]:
    return (*(match.compile() for match in action.headers), *(match.compile() for match in action.query))
