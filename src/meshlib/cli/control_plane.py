"""`meshlib control-plane mesh/`: a folder of Istio YAML, served over xDS."""

from __future__ import annotations

import logging
import signal
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("control-plane")(control_plane)


def control_plane(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Istio and Kubernetes YAML.")],
    host: Annotated[str, typer.Option(help="Address to listen on; there is no TLS, so mind who can reach it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 15010,
    otlp: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="OTLP/HTTP collector that Envoys send all spans to.")
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="How much to log, on stderr.")] = LogLevel.INFO,
) -> None:
    """Serve a folder of Istio YAML over xDS: to meshlib, to gRPC's own xDS clients and to Envoys.

    Prints one line when clients can connect. An edit in the folder takes effect without
    restart; a broken one is reported, and what was in force before stays. Ctrl-C ends it.
    """
    from meshlib.controlplane.directory import Directory
    from meshlib.controlplane.options import MeshOptions
    from meshlib.controlplane.server import Server

    if otlp is not None and not (otlp.rpartition(":")[0] and otlp.rpartition(":")[2].isdigit()):
        raise typer.BadParameter(f"expected HOST:PORT, got {otlp!r}", param_hint="--otlp")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    with Directory(directory, MeshOptions(otlp=otlp)) as folder, Server(folder, host=host, port=port) as server:
        resources = f"{folder.size} resource{'' if folder.size == 1 else 's'}"
        typer.echo(f"control plane on {server.address}, serving {directory}/ ({resources})")
        ending.wait()
