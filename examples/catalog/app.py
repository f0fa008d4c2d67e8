"""catalog: the items of an outfitter, over HTTP. It knows nothing of the mesh.

    python examples/catalog/app.py --port 3000 --version v2
    CATALOG_VERSION=v2 python -m uvicorn --app-dir examples/catalog app:app --port 3000

========================  =================================================================
GET /items                every item; v2 adds ``imageUrl``
GET /items/{id}           one item
POST /items               add one: ``{"name": "Tarp", "department": "Camping", "price": 59}``
POST /blowup              fail on purpose (faults.py): ``{"rate": 0.5, "status": 500}``
GET /stats                what arrived and how it was answered, by endpoint
GET /health               200
========================  =================================================================
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import uvicorn
from faults import Faults, parse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tracing import TraceRequests, exporting

MAX_ITEMS = 1000
DEPARTMENTS = {"Camping": "2e7d32", "Climbing": "c62828", "Footwear": "6d4c41", "Rainwear": "1565c0"}
ITEMS = [
    {"id": 1, "name": "Ridge two-person tent", "department": "Camping", "price": 289.0},
    {"id": 2, "name": "Ember gas stove", "department": "Camping", "price": 74.5},
    {"id": 3, "name": "Karst 9.8 mm rope", "department": "Climbing", "price": 189.9},
    {"id": 4, "name": "Moraine hiking boots", "department": "Footwear", "price": 219.0},
    {"id": 5, "name": "Squall shell jacket", "department": "Rainwear", "price": 259.0},
]


class Catalog:
    """The items and the HTTP endpoints over them."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.items: dict[int, dict[str, Any]] = {int(item["id"]): dict(item) for item in ITEMS}

    def shown(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return the item as this version shows it."""
        return item if self.version == "v1" else {**item, "imageUrl": picture(item)}

    async def list_items(self, _request: Request) -> Response:
        """GET /items."""
        return JSONResponse([self.shown(item) for item in self.items.values()])

    async def get_item(self, request: Request) -> Response:
        """GET /items/{id}."""
        item = self.items.get(request.path_params["id"])
        if item is None:
            return JSONResponse({"error": f"there is no item {request.path_params['id']}"}, 404)
        return JSONResponse(self.shown(item))

    async def add_item(self, request: Request) -> Response:
        """POST /items."""
        try:
            item = new_item(await request.json())
        except ValueError as error:  # JSON's own errors are ValueErrors too
            return JSONResponse({"error": str(error)}, 400)
        if len(self.items) >= MAX_ITEMS:
            return JSONResponse({"error": f"the catalog is full: {MAX_ITEMS} items"}, 507)
        item["id"] = max(self.items) + 1
        self.items[item["id"]] = item
        return JSONResponse(self.shown(item), 201, headers={"location": f"/items/{item['id']}"})


def new_item(document: object) -> dict[str, Any]:
    """Check the JSON of a new item; raises ``ValueError`` that names the field."""
    if not isinstance(document, dict):
        raise ValueError("expected an object with name, department and price")
    name, price = document.get("name"), document.get("price")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= 100:
        raise ValueError("name must be a text of 1 to 100 characters")
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < 1e6:
        raise ValueError("price must be a number from 0 to 1000000")
    if document.get("department") not in DEPARTMENTS:
        raise ValueError(f"department must be one of {', '.join(DEPARTMENTS)}")
    return {"id": 0, "name": name.strip(), "department": document["department"], "price": float(price)}


def picture(item: dict[str, Any]) -> str:
    """Return the item's picture as a ``data:`` URL, so that a page shows it with no other server."""
    color = DEPARTMENTS[item["department"]]
    shape = f"<rect width='48' height='48' rx='8' fill='#{color}'/>"
    letter = f"<text x='24' y='33' font-size='26' text-anchor='middle' fill='white'>{item['department'][0]}</text>"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 48 48'>{shape}{letter}</svg>"
    return f"data:image/svg+xml,{quote(svg)}"


class Versioned:
    """ASGI middleware that says in every response which version answered."""

    def __init__(self, app: ASGIApp, version: str) -> None:
        self.app = app
        self.header = (b"x-catalog-version", version.encode("latin-1"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self.header]
            await send(message)

        await self.app(scope, receive, naming)


def create_app(version: str) -> ASGIApp:
    """Return the service as one version of it; faults and counts belong to this instance."""
    catalog = Catalog(version)

    async def blow_up(request: Request) -> Response:
        try:
            faults.fault = parse(await request.json())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(vars(faults.fault))

    async def stats(_request: Request) -> Response:
        return JSONResponse({"version": version, "received": faults.received, "answered": faults.answered})

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": version})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        with exporting("catalog", version):
            yield

    routes = [
        Route("/items", catalog.list_items, methods=["GET"]),
        Route("/items", catalog.add_item, methods=["POST"]),
        Route("/items/{id:int}", catalog.get_item, methods=["GET"]),
        Route("/blowup", blow_up, methods=["POST"]),
        Route("/stats", stats),
        Route("/health", health),
    ]
    faults = Faults(Starlette(routes=routes, lifespan=lifespan))
    return TraceRequests(Versioned(faults, version))


app = create_app(os.environ.get("CATALOG_VERSION") or os.environ.get("SERVICE_VERSION") or "v1")


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="The catalog of an outfitter.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--version", help="v1 or v2; default $CATALOG_VERSION, else $SERVICE_VERSION, else v1")
    args = parser.parse_args()
    service = create_app(args.version) if args.version else app
    # Keep-alive longer than any caller's, so that none sends on a connection that is being closed.
    patience = {"timeout_keep_alive": 75, "timeout_graceful_shutdown": 2}
    uvicorn.run(service, host=args.host, port=args.port, access_log=False, **patience)


if __name__ == "__main__":
    main()
