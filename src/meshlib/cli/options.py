"""Options that several commands have, declared once: the same name, help and default everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Istio and Kubernetes YAML.")]
Config = Annotated[Path | None, typer.Option(help="A folder of Istio and Kubernetes YAML.")]
Address = Annotated[
    str | None, typer.Option("--address", "--xds", metavar="HOST:PORT", help="HOST:PORT of a control plane.")
]
Bootstrap = Annotated[Path | None, typer.Option(help="An Envoy or gRPC bootstrap file, JSON or YAML.")]
Workload = Annotated[str, typer.Option(help="The workload to ask for.")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Its namespace.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for the configuration.")]
AnswerWithin = Annotated[float, typer.Option(help="Seconds to wait for the answer.")]
Ca = Annotated[Path | None, typer.Option(help="PEM roots of the control plane's certificate; none: plaintext.")]

CONTROL_PLANE = "127.0.0.1:15010"
