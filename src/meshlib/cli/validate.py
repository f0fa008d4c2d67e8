"""`meshlib validate mesh/`: everything wrong with a folder of YAML, by file, line and column."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from meshlib.controlplane.faults import Fault


class Output(StrEnum):
    """The forms of the answer."""

    TEXT = "text"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("validate")(validate)


def validate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Istio and Kubernetes YAML.")],
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the answer.")] = Output.TEXT,
) -> None:
    """Tell what is wrong with a folder of YAML: exit 1 when there is an error, 0 with warnings only.

    An error is a document that would be left out, or a reference that leads nowhere; a
    warning is what would not be obeyed.
    """
    from meshlib.controlplane.faults import Severity
    from meshlib.controlplane.folder import NO_FILES, read_folder
    from meshlib.controlplane.validate import validate as validate_files

    listing = read_folder(directory)
    found = (*listing.faults, *validate_files(listing.files)) or (() if listing.files else (NO_FILES,))
    faults = [replace(fault, file=str(directory / fault.file)) for fault in found]
    errors = sum(fault.severity is Severity.ERROR for fault in faults)
    if output is Output.JSON:
        typer.echo(json.dumps([_to_dict(fault) for fault in faults], indent=2))
    else:
        for fault in faults:
            typer.echo(str(fault))
        counted = f"{_count(errors, 'error')}, {_count(len(faults) - errors, 'warning')}"
        typer.echo(f"{directory}/: {_count(len(listing.files), 'file')}, {counted}", err=True)
    raise typer.Exit(1 if errors else 0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _to_dict(fault: Fault) -> dict[str, Any]:
    return {
        "file": fault.file,
        "line": fault.line,
        "column": fault.column,
        "severity": fault.severity.value,
        "resource": fault.resource,
        "message": fault.message,
    }
