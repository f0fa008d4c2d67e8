"""`meshlib explain GET http://catalog/items`: where a request would go, and why."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from meshlib.cli import options
from meshlib.cli.sources import mesh_of


class Output(StrEnum):
    """The forms of the answer."""

    TEXT = "text"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("explain")(explain)


def explain(
    method: Annotated[str, typer.Argument(help="HTTP method, for instance GET.")],
    url: Annotated[str, typer.Argument(help="The URL as the application writes it: http://catalog/items.")],
    header: Annotated[
        list[str] | None, typer.Option("-H", "--header", metavar="NAME:VALUE", help="A request header; repeatable.")
    ] = None,
    config: options.Config = None,
    address: options.Address = None,
    bootstrap: options.Bootstrap = None,
    workload: options.Workload = "meshlib-explain",
    namespace: options.Namespace = "default",
    timeout: options.Timeout = 15.0,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the answer.")] = Output.TEXT,
) -> None:
    """Tell where a request would go and why, without sending it.

    Names the listener, virtual host, route, cluster and endpoints with their health, the
    timeouts and retries in force, and the YAML file and line behind the route. Without
    --config, --address or --bootstrap the environment says where the configuration is, as
    Mesh.from_env() reads it.
    """
    headers = dict(_header(text) for text in header or ())
    with mesh_of(config, address, bootstrap, workload, namespace) as mesh:
        mesh.wait_ready(timeout)
        try:
            explanation = mesh.explain(method, url, headers=headers)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="URL") from None
    if output is Output.JSON:
        typer.echo(json.dumps(explanation.to_dict(), indent=2))
    else:
        typer.echo(str(explanation))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{text!r} is not NAME:VALUE", param_hint="-H")
    return name.strip(), value.strip()
