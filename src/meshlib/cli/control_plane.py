"""`meshlib control-plane mesh/`: a folder of Istio YAML, served over xDS."""

from __future__ import annotations

import gc
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
    host: Annotated[str, typer.Option(help="Address to listen on; mind who can reach it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Plaintext port; 0 takes a free one.")] = 15010,
    plaintext: Annotated[bool, typer.Option(help="Whether there is a plaintext port.")] = True,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM certificate of a TLS port; it and the key are read anew when they change.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its PEM private key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM roots: clients of the TLS port must have a certificate of these.")
    ] = None,
    tls_port: Annotated[int, typer.Option(min=0, max=65535, help="TLS port; 0 takes a free one.")] = 15012,
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
    from meshlib.controlplane.server_tls import ServerTls

    if (tls_cert is None) != (tls_key is None) or (tls_client_ca and not tls_cert):
        raise typer.BadParameter("a TLS port needs --tls-cert and --tls-key")
    tls = ServerTls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    if otlp is not None and not (otlp.rpartition(":")[0] and otlp.rpartition(":")[2].isdigit()):
        raise typer.BadParameter(f"expected HOST:PORT, got {otlp!r}", param_hint="--otlp")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    folder = Directory(directory, MeshOptions(otlp=otlp))
    server = Server(folder, host=host, port=port if plaintext else None, tls=tls, tls_port=tls_port)
    with folder, server:
        # What was read stays: the collector need not walk it at every change.
        gc.collect()
        gc.freeze()
        resources = f"{folder.size} resource{'' if folder.size == 1 else 's'}"
        plain = [server.address] if plaintext else []
        addresses = [*plain, *([f"{server.tls_address} (TLS)"] if tls else [])]
        typer.echo(f"control plane on {' and '.join(addresses)}, serving {directory}/ ({resources})")
        ending.wait()
