"""`meshlib describe service catalog.istioinaction`: what applies to it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class What(StrEnum):
    """What is described."""

    SERVICE = "service"
    WORKLOAD = "workload"
    SVC = "svc"
    POD = "pod"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("describe")(describe)


def describe(
    what: Annotated[What, typer.Argument(help="A service, or a workload.")],
    name: Annotated[str, typer.Argument(metavar="NAME[.NAMESPACE]", help="Which one.")],
    config: Annotated[Path, typer.Option(help="A folder of Istio and Kubernetes YAML.")] = Path("mesh"),
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Its namespace.")] = "default",
) -> None:
    """Tell which DestinationRule, VirtualService, Gateways and policy apply to a service or a workload, and where
    each is written.
    """
    from meshlib.controlplane.describe import Describer
    from meshlib.controlplane.documents import read
    from meshlib.controlplane.folder import read_folder

    documents, _ = read(read_folder(config).files)
    short, _, written = name.partition(".")
    where = written or namespace
    describer = Describer.of(documents, where)
    lookup = describer.service if what in (What.SERVICE, What.SVC) else describer.workload
    for line in lookup(short, where):
        typer.echo(line)
