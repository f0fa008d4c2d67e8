"""httpx's clients without the work that nobody can observe: ``mesh.client()`` and ``mesh.async_client()``.

Three shortcuts, each taken only where its effect is the same as httpx's own (0.28) path:

- Cookies are looked for only in responses that set one, while the jar is the standard library's.
- An absolute URL that was parsed before is not parsed again: ``httpx.URL`` is immutable.
- A body that is here as a whole when the call returns is handed over, not iterated through four
  layers of streams: where it is to be read anyway (``stream=False``) and no response hook saw it unread.

A subclass of ours may override anything of httpx's, so it takes httpx's path throughout.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from http.cookiejar import CookieJar
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httpx
from httpx._client import BoundAsyncStream, BoundSyncStream
from httpx._exceptions import request_context

from meshlib.transports.httpx_async import AsyncCallStream
from meshlib.transports.httpx_sync import CallStream

if TYPE_CHECKING:
    from httpx._types import CookieTypes

_URLS = 1024  # parsed URLs kept by one client


class LazyCookies(httpx.Cookies):
    """``httpx.Cookies`` that leave a response alone which sets none."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Take the cookies a response sets."""
        # Without either header the standard library's jar finds nothing; another's may do as it likes.
        headers = response.headers
        if type(self.jar) is not CookieJar or "set-cookie" in headers or "set-cookie2" in headers:
            super().extract_cookies(response)


class _Shortcuts:
    """What the two clients share."""

    # Set by httpx's clients.
    _cookies: httpx.Cookies
    _event_hooks: dict[str, list[Any]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cookies = LazyCookies(self._cookies.jar)
        self._parse = lru_cache(_URLS)(httpx.URL)

    @property
    def cookies(self) -> httpx.Cookies:
        """Cookie values to include when sending requests."""
        return self._cookies

    @cookies.setter
    def cookies(self, cookies: CookieTypes) -> None:
        self._cookies = LazyCookies(httpx.Cookies(cookies).jar)

    def _merge_url(self, url: httpx.URL | str) -> httpx.URL:
        if type(url) is str and type(self) in (AsyncMeshClient, MeshClient):
            parsed = self._parse(url)
            if parsed.is_absolute_url:
                return parsed
        merged: httpx.URL = super()._merge_url(url)  # type: ignore[misc]  # of httpx's client, to our right
        return merged


class AsyncMeshClient(_Shortcuts, httpx.AsyncClient):
    """``httpx.AsyncClient`` over a mesh; made by :meth:`meshlib.Mesh.async_client`."""

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request; see ``httpx.AsyncClient.send``."""
        if stream or type(self) is not AsyncMeshClient or self._event_hooks["response"]:
            return await super().send(request, stream=stream, **options)
        response = await super().send(request, stream=True, **options)
        try:
            if not _taken(response):
                await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response


class MeshClient(_Shortcuts, httpx.Client):
    """``httpx.Client`` over a mesh; made by :meth:`meshlib.Mesh.client`. Thread-safe."""

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request; see ``httpx.Client.send``."""
        if stream or type(self) is not MeshClient or self._event_hooks["response"]:
            return super().send(request, stream=stream, **options)
        response = super().send(request, stream=True, **options)
        try:
            if not _taken(response):
                response.read()
        except BaseException:
            response.close()
            raise
        return response


def _taken(response: httpx.Response) -> bool:
    """Read a response whose body is here as a whole, as ``read()`` would; returns whether it was."""
    bound = response.stream
    if type(bound) is not BoundAsyncStream and type(bound) is not BoundSyncStream:
        return False
    stream = bound._stream
    if type(stream) is not AsyncCallStream and type(stream) is not CallStream:
        return False
    if response.is_stream_consumed or response.is_closed or (data := stream.take()) is None:
        return False
    response.is_stream_consumed = response.is_closed = True
    response._num_bytes_downloaded = len(data)
    response.elapsed = timedelta(seconds=perf_counter() - bound._start)
    if "content-encoding" in response.headers:
        decoder = response._get_content_decoder()
        with request_context(request=response.request):
            data = decoder.decode(data) + decoder.flush()
    response._content = data
    return True
