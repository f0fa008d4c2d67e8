"""`meshlib config-dump --xds HOST:PORT`: the configuration in force, as Envoy's config dump."""

from __future__ import annotations

import json

import typer

from meshlib.cli import options
from meshlib.cli.sources import mesh_of
from meshlib.errors import MeshNotReady


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("config-dump")(config_dump)


def config_dump(
    config: options.Config = None,
    address: options.Address = None,
    bootstrap: options.Bootstrap = None,
    workload: options.Workload = "meshlib-config-dump",
    namespace: options.Namespace = "default",
    timeout: options.Timeout = 15.0,
) -> None:
    """Print what a workload is configured with, as Envoy's config dump in JSON.

    The real `istioctl proxy-config clusters -f FILE` reads it. Secrets are blotted out. Where no
    configuration can be used, what is known all the same is printed, and the exit code is 1.
    Without --config, --address or --bootstrap the environment says where the configuration is,
    as Mesh.from_env() reads it.
    """
    with mesh_of(config, address, bootstrap, workload, namespace, on_demand=False) as mesh:
        trouble = ""
        try:
            mesh.wait_ready(timeout)
        except MeshNotReady as error:
            trouble = str(error)
        typer.echo(json.dumps(mesh.config_dump(), indent=2))
    if trouble:
        typer.echo(f"meshlib: {trouble}", err=True)
        raise typer.Exit(1)
