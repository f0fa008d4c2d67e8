"""Load for one stage of the story, and what came of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

# Trace context that says "not sampled": the load is measured without spans; the one request
# whose trace the story tells is sent apart.
_UNSAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}


@dataclass(frozen=True, slots=True)
class Stage:
    """What the client at the gateway saw during one stage, and what the catalog counted.

    Attributes:
        statuses: how often each status came back; 0 stands for no response at all.
        seconds: the duration of every request, sorted.
        attempts: requests that the catalog instances together counted meanwhile.
        by_instance: the same for each instance.
    """

    statuses: Counter[int]
    seconds: Sequence[float]
    attempts: int = 0
    by_instance: dict[str, int] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return len(self.seconds)

    @property
    def success_rate(self) -> float:
        """The share of requests answered with 200."""
        return self.statuses[200] / self.requests if self.requests else 0.0

    @property
    def attempts_per_request(self) -> float:
        """How many requests reached the catalog for one that reached the gateway."""
        return self.attempts / self.requests if self.requests else 0.0

    def percentile_ms(self, percent: float) -> float:
        """Return the nearest-rank percentile of the durations, in milliseconds."""
        if not self.seconds:
            return 0.0
        return 1000 * self.seconds[max(0, math.ceil(percent / 100 * len(self.seconds)) - 1)]

    def to_dict(self) -> dict[str, float]:
        """Return the figures of the stage as `meshlib demo --json` prints them."""
        return {
            "requests": self.requests,
            "success_rate": round(self.success_rate, 4),
            "p50_ms": round(self.percentile_ms(50), 1),
            "p99_ms": round(self.percentile_ms(99), 1),
            "attempts_per_request": round(self.attempts_per_request, 3),
        }


def send_load(
    url: str, requests: int, *, concurrency: int = 8, on_response: Callable[[], None] = lambda: None
) -> Stage:
    """Send ``requests`` GETs to ``url``, ``concurrency`` at a time, and return what came back.

    ``attempts`` of the stage is still 0: only the catalog knows.
    """
    return asyncio.run(_send_load(url, requests, concurrency, on_response))


async def _send_load(url: str, requests: int, concurrency: int, on_response: Callable[[], None]) -> Stage:
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    left = iter(range(requests))

    async def worker(client: httpx.AsyncClient) -> None:
        for _ in left:
            started = time.monotonic()
            try:
                response = await client.get(url, headers=_UNSAMPLED)
                statuses[response.status_code] += 1
            except httpx.HTTPError:
                statuses[0] += 1
            seconds.append(time.monotonic() - started)
            on_response()

    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(timeout=30, limits=limits, trust_env=False) as client:
        await asyncio.gather(*(worker(client) for _ in range(concurrency)))
    return Stage(statuses, sorted(seconds))
