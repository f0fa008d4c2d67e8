"""Failing on purpose: a share of the requests for items meets a status, a delay or a dropped connection."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_DELAY = 60.0


@dataclass(frozen=True)
class Fault:
    """What ``POST /blowup`` asked for.

    Attributes:
        rate: the share of requests that meet it, 0 to 1; each request draws for itself.
        delay: seconds to wait before anything else.
        drop: whether the connection is closed without a response.
        status: the status to answer with, 0 to answer as usual (after the delay).
    """

    rate: float = 0.0
    delay: float = 0.0
    drop: bool = False
    status: int = 0


def parse(document: object) -> Fault:
    """Read the JSON of ``POST /blowup``; raises ``ValueError`` that says what was expected."""
    if not isinstance(document, Mapping):
        raise ValueError('expected an object such as {"rate": 0.5, "status": 500}')
    unknown = sorted(set(document) - {"rate", "delay", "drop", "status"})
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; known are rate, status, delay and drop")
    rate = _number(document, "rate", 1.0, 0.0, 1.0)
    delay = _number(document, "delay", 0.0, 0.0, MAX_DELAY)
    status = int(_number(document, "status", 0.0, 400.0, 599.0))
    drop = document.get("drop", False)
    if not isinstance(drop, bool):
        raise ValueError("drop must be true or false")
    if rate and not (delay or drop or status):
        status = 500
    return Fault(rate=rate, delay=delay, drop=drop, status=status)


def _number(document: Mapping[str, object], name: str, default: float, low: float, high: float) -> float:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number")
    if name in document and not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}")
    return float(value)


class Faults:
    """ASGI middleware that injects the current fault into requests for items, and counts them.

    Attributes:
        fault: the fault in force; assign to change it.
        received: requests by endpoint, counted when they arrive.
        answered: requests by endpoint and outcome (a status, or "dropped"), when they end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.fault = Fault()
        self.received: Counter[str] = Counter()
        self.answered: dict[str, Counter[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or fail it."""
        if scope["type"] != "http" or scope["path"].strip("/").split("/")[0] != "items":
            await self.app(scope, receive, send)
            return
        endpoint = f"{scope['method']} /items" + ("/{id}" if scope["path"].count("/") > 1 else "")
        answered = self.answered.setdefault(endpoint, Counter())
        self.received[endpoint] += 1

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered[str(message["status"])] += 1
            await send(message)

        fault = self.fault
        if random.random() >= fault.rate:
            await self.app(scope, receive, counting)
            return
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.drop:
            answered["dropped"] += 1
            await _hang_up(receive)
        elif fault.status:
            blown = JSONResponse({"error": "blown up on purpose", "status": fault.status}, fault.status)
            await blown(scope, receive, counting)
        else:
            await self.app(scope, receive, counting)


async def _hang_up(receive: Receive) -> None:
    """Close the connection without a response.

    ASGI has no word for that, so this reaches for the transport behind ``receive``, which is a
    method of uvicorn's request cycle.
    """
    receive.__self__.transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
