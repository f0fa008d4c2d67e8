"""The benches' upstream: a process of its own that answers every request with 1 KiB of JSON."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BODY = b'{"items":"' + b"x" * 1012 + b'"}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Answer(asyncio.Protocol):
    """Answers each request head; bodies are not expected."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        heads = self._seen.count(b"\r\n\r\n")
        if heads:
            self._seen = self._seen.rpartition(b"\r\n\r\n")[2]
            self._transport.write(RESPONSE * heads)


async def serve(hosts: list[str]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answer, hosts[0], 0)
    port = server.sockets[0].getsockname()[1]
    if hosts[1:]:
        await loop.create_server(Answer, hosts[1:], port)
    print(port, flush=True)
    await server.serve_forever()


@contextmanager
def running(*hosts: str, cpu: int | None = None) -> Iterator[int]:
    """Run the upstream on these loopback addresses, 127.0.0.1 by default, on a CPU; yields its port."""
    command = [sys.executable, __file__, *(hosts or ("127.0.0.1",))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if cpu is not None and hasattr(os, "sched_setaffinity") and cpu in os.sched_getaffinity(0):
        os.sched_setaffinity(process.pid, {cpu})
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
