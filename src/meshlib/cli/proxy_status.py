"""`meshlib proxy-status`: which clients a control plane has, and whether they are up to date."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshlib.cli import options
from meshlib.cli.output import emit, table

if TYPE_CHECKING:
    from meshlib.controlplane.status import ClientStatus

_COLUMNS = ("NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ISTIOD", "VERSION")
_TYPES = ("cds", "lds", "eds", "rds")


class Output(StrEnum):
    """The forms of the answer."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``, also under istioctl's short name."""
    app.command("proxy-status")(proxy_status)
    app.command("ps", hidden=True)(proxy_status)


def proxy_status(
    address: Annotated[
        str, typer.Option("--address", "--xds", metavar="HOST:PORT", help="The control plane to ask.")
    ] = options.CONTROL_PLANE,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the answer.")] = Output.TABLE,
    timeout: options.AnswerWithin = 5.0,
    ca: options.Ca = None,
) -> None:
    """List the clients of a control plane, and what became of the configuration they were sent.

    SYNCED: the client took the last of it. STALE: it has not answered yet. ERROR: it refused
    it, and keeps what it had. NOT SENT: it did not ask for that type.
    """
    from meshlib.controlplane.status import fetch

    clients = fetch(address, timeout=timeout, ca=ca)
    if output is not Output.TABLE:
        emit([_row(client, address) for client in clients], output)
        return
    for line in table(_COLUMNS, (_cells(client, address) for client in clients)):
        typer.echo(line)
    for client in clients:
        for kind, error in client.errors.items():
            typer.echo(f"{client.name} refused {kind.upper()}: {error}")
    if not clients:
        typer.echo(f"no client is connected to {address}", err=True)


def _row(client: ClientStatus, address: str) -> dict[str, Any]:
    return {
        "name": client.name,
        "kind": client.kind,
        "cluster": client.cluster,
        **{kind: getattr(client, kind).status.value for kind in _TYPES},
        "istiod": address,
        "version": client.version,
        "node_id": client.node_id,
        "connected_at": client.connected_at,
        "versions": {kind: getattr(client, kind).version for kind in _TYPES},
        "errors": dict(client.errors),
    }


def _cells(client: ClientStatus, address: str) -> list[str]:
    states = [getattr(client, kind).status.value for kind in _TYPES]
    return [client.name, client.cluster, *states, address, client.version]
