"""TCP checks: a connection, and what is said over it."""

from __future__ import annotations

from meshlib.model.health_check import TcpCheck
from meshlib.policy.health import Result
from meshlib.upstream.probing.connecting import Connection, Dialled
from meshlib.upstream.probing.payload import contains


class TcpProbe:
    """Connects, sends and waits for what has to come back; without ``receive`` connecting is enough."""

    def __init__(self, dialled: Dialled, check: TcpCheck, *, keep: bool) -> None:
        self._dialled = dialled
        self._check = check
        self._keep = keep
        self._connection: Connection | None = None

    async def check(self) -> Result:
        """See :class:`~meshlib.runtime.keeper.Probe`."""
        connection = self._connection
        if connection is None or connection.ended:
            self.close()
            connection = self._connection = await self._dialled.connect()
        if self._check.send:
            await connection.send(self._check.send)
        received = b""
        while self._check.receive and not contains(received, self._check.receive):
            data = await connection.receive()
            if not data:
                raise OSError("the connection ended before what is expected came")
            received += data
        # As Envoy: a check that only connects keeps no connection.
        if not self._keep or not self._check.receive:
            self.close()
        return Result()

    def close(self) -> None:
        """See :class:`~meshlib.runtime.keeper.Probe`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
