"""`meshlib capabilities --config mesh/`: which fields of a configuration are not honoured."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from meshlib.cli import options
from meshlib.cli.output import table
from meshlib.cli.sources import mesh_of

if TYPE_CHECKING:
    from meshlib.capabilities import Capabilities

_COLUMNS = ("STATUS", "TYPE", "RESOURCE", "FIELD", "COUNT", "CONSEQUENCE")


class Output(StrEnum):
    """The forms of the answer."""

    TABLE = "table"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("capabilities")(capabilities)


def capabilities(
    config: options.Config = None,
    address: options.Address = None,
    bootstrap: options.Bootstrap = None,
    workload: options.Workload = "meshlib-capabilities",
    namespace: options.Namespace = "default",
    timeout: options.Timeout = 15.0,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the answer.")] = Output.TABLE,
) -> None:
    """Tell which fields of a configuration are not, or only nearly, honoured.

    REFUSED: not taken, or not fetched, at all. NOT HONOURED: left out, the rest is in force.
    APPROXIMATED: done nearly as asked. One line a kind, with one resource that has it and how
    many do; -o json lists every one. Without --config, --address or --bootstrap the
    environment says where the configuration is, as Mesh.from_env() reads it.
    """
    with mesh_of(config, address, bootstrap, workload, namespace) as mesh:
        found = mesh.capabilities(timeout)
    if output is Output.JSON:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    for line in table(_COLUMNS, _rows(found)) if found.kinds else ():
        typer.echo(line)
    counted = ", ".join(f"{count} {status}" for status, count in found.counts.items())
    typer.echo(counted if found.kinds else str(found), err=True)


def _rows(found: Capabilities) -> list[list[str]]:
    return [
        [entry.status.upper(), entry.type, entry.resource or "-", entry.field or "-", str(count), entry.consequence]
        for entry, count in found.kinds
    ]
