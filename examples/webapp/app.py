"""webapp: the outfitter's shop window. It calls catalog through the mesh.

    MESHLIB_CONFIG=examples/mesh python examples/webapp/app.py --port 8080
    MESHLIB_XDS_ADDRESS=127.0.0.1:15010 python -m uvicorn --app-dir examples/webapp app:app --port 8080

==========================  ===============================================================
GET /                       a page with the items, and which version of catalog served them
GET /api/catalog            the items as JSON
GET /api/catalog/items/{id} one item
GET /health                 200
==========================  ===============================================================

``CATALOG_URL`` names the catalog (default http://catalog.istioinaction), ``MESHLIB_METRICS_PORT``
opens the mesh's Prometheus endpoint on loopback, ``MESHLIB_ACCESS_LOG=1`` writes Istio's access
log of every call to stderr.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp
from tracing import TraceRequests, exporting

import meshlib

CATALOG_URL = os.environ.get("CATALOG_URL", "http://catalog.istioinaction")
TIMEOUT = 10.0  # longer than the retries of a route, so that the mesh decides and not the client

# Handed on from the browser's request: one id in every log, and the header that picks testers.
FORWARDED = ("x-request-id", "x-istio-cohort")

templates = Jinja2Templates(directory=Path(__file__).parent / "templates")


@asynccontextmanager
async def meshed_client() -> AsyncIterator[httpx.AsyncClient]:
    """Yield the client for catalog, steered by the mesh that the environment names."""
    # The mesh: these two lines, and `import meshlib`. What follows them is httpx as ever.
    mesh = meshlib.Mesh.from_env()
    client = httpx.AsyncClient(transport=mesh.async_transport(), base_url=CATALOG_URL, timeout=TIMEOUT)
    port = os.environ.get("MESHLIB_METRICS_PORT")
    async with mesh, client:
        with mesh.serve_metrics("127.0.0.1", int(port)) if port else nullcontext():
            yield client


class Shop:
    """The pages, over a client for catalog."""

    def __init__(self) -> None:
        self.catalog: httpx.AsyncClient  # set by the lifespan, closed by it

    async def fetch(self, request: Request, path: str) -> httpx.Response:
        """GET from catalog; what the mesh or the network refused becomes a response like Envoy's."""
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        try:
            return await self.catalog.get(path, headers=headers)
        except (httpx.HTTPError, meshlib.MeshError) as error:
            return failure(error)

    async def page(self, request: Request) -> Response:
        """GET /."""
        answer = await self.fetch(request, "/items")
        context = {
            "items": answer.json() if answer.status_code == 200 else [],
            "status": answer.status_code,
            "version": answer.headers.get("x-catalog-version", "?"),
            "problem": "" if answer.status_code == 200 else answer.text,
        }
        return templates.TemplateResponse(request, "index.html", context, answer.status_code)

    async def api_items(self, request: Request) -> Response:
        """GET /api/catalog."""
        return passed_on(await self.fetch(request, "/items"))

    async def api_item(self, request: Request) -> Response:
        """GET /api/catalog/items/{id}."""
        return passed_on(await self.fetch(request, f"/items/{request.path_params['id']}"))


def failure(error: httpx.HTTPError | meshlib.MeshError) -> httpx.Response:
    """Return what a sidecar would have answered: 504 for a timeout, 503 or 502 else, with its flags."""
    record = getattr(error, "record", None)
    flags = record.response_flags if record is not None else "-"
    if record is not None and record.status is not None:
        status = record.status
    elif isinstance(error, httpx.TimeoutException):
        status = 504
    else:
        status = 503 if isinstance(error, meshlib.MeshError) else 502
    return httpx.Response(status, json={"error": type(error).__name__, "message": str(error), "flags": flags})


def passed_on(answer: httpx.Response) -> Response:
    """Return catalog's answer as our own, its status too, so that the gateway sees it."""
    kept = {name: answer.headers[name] for name in ("content-type", "x-catalog-version") if name in answer.headers}
    return Response(answer.content, answer.status_code, kept)


def create_app(client: httpx.AsyncClient | None = None) -> ASGIApp:
    """Return the service; ``client`` replaces the meshed one and is closed with the service."""
    shop = Shop()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        with exporting("webapp", os.environ.get("SERVICE_VERSION", "v1")):
            async with client or meshed_client() as shop.catalog:
                yield

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/", shop.page),
        Route("/api/catalog", shop.api_items),
        Route("/api/catalog/items/{id:int}", shop.api_item),
        Route("/health", health),
    ]
    return TraceRequests(Starlette(routes=routes, lifespan=lifespan))


app = create_app()


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="The shop window of an outfitter.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    patience: dict[str, Any] = {"timeout_keep_alive": 75, "timeout_graceful_shutdown": 2}
    uvicorn.run(app, host=args.host, port=args.port, access_log=False, **patience)


if __name__ == "__main__":
    main()
