"""`meshlib render DIR`: the xDS resources that a workload would be served."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshlib.cli import options
from meshlib.cli.output import emit

if TYPE_CHECKING:
    from meshlib.controlplane.node import Node
    from meshlib.controlplane.resources import Resources


class NodeType(StrEnum):
    """What asks."""

    SIDECAR = "sidecar"
    GRPC = "grpc"
    ROUTER = "router"


class Form(StrEnum):
    """The forms of the answer: resources by type, or Envoy's config dump."""

    JSON = "json"
    YAML = "yaml"
    DUMP = "dump"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("render")(render)


def render(
    directory: options.Directory,
    node: Annotated[NodeType, typer.Option(help="What asks.")] = NodeType.SIDECAR,
    workload: Annotated[str, typer.Option(metavar="NAME.NAMESPACE", help="Who asks.")] = "meshlib-render.default",
    label: Annotated[
        list[str] | None,
        typer.Option("-l", "--label", metavar="KEY=VALUE", help="A label of it; none: those that the folder says."),
    ] = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="Form of the answer.")] = Form.JSON,
) -> None:
    """Print all xDS resources that a workload would be served from a folder of YAML.

    Labels and address are those of the Pod, WorkloadEntry or Deployment of that name, where the
    folder has one. `-o dump` prints Envoy's config dump, which `meshlib proxy-config ... -f` and
    the real `istioctl proxy-config ... -f` read. What is wrong with the folder goes to stderr;
    exit 1 when there is an error in it.
    """
    from meshlib.controlplane.config_dump import dump, listed

    who, resources, errors = translated(directory, node, workload, label)
    document = dump(resources, who.id) if output is Form.DUMP else listed(resources)
    emit(document, Form.JSON if output is Form.DUMP else output)
    raise typer.Exit(1 if errors else 0)


def translated(
    directory: Path, kind: NodeType, workload: str, labels: list[str] | None
) -> tuple[Node, Resources, bool]:
    """Return a workload of a folder, what it would be served, and whether the folder has errors, which are told."""
    from meshlib.controlplane.documents import read
    from meshlib.controlplane.faults import Severity
    from meshlib.controlplane.folder import read_folder
    from meshlib.controlplane.node import NodeKind
    from meshlib.controlplane.render import node_of
    from meshlib.controlplane.translate import translate

    listing = read_folder(directory)
    documents, faults = read(listing.files)
    name, _, namespace = workload.rpartition(".") if "." in workload else (workload, "", "default")
    node = node_of(documents, NodeKind(kind.value), name, namespace, _labels(labels))
    resources, references = translate(documents, node)
    told = [*listing.faults, *faults, *references]
    for fault in told:
        typer.echo(str(fault), err=True)
    return node, resources, any(fault.severity is Severity.ERROR for fault in told)


def _labels(written: list[str] | None) -> dict[str, str] | None:
    if written is None:
        return None
    pairs = [item.partition("=") for item in written]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise typer.BadParameter("expected KEY=VALUE", param_hint="--label")
    return {key: value for key, _, value in pairs}
