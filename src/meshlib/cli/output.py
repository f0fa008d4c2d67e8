"""What commands print: columns as istioctl's, JSON, YAML."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer


class Data(StrEnum):
    """Forms for programs."""

    JSON = "json"
    YAML = "yaml"


class Shown(StrEnum):
    """Forms of an answer that is a table for people."""

    SHORT = "short"
    JSON = "json"
    YAML = "yaml"


class Told(StrEnum):
    """Forms of an answer that is text for people."""

    LOG = "log"
    JSON = "json"
    YAML = "yaml"


AsData = Annotated[Data, typer.Option("-o", "--output", help="Form of the answer.")]
AsShown = Annotated[Shown, typer.Option("-o", "--output", help="Form of the answer.")]
AsTold = Annotated[Told, typer.Option("-o", "--output", help="Form of the answer.")]


def emit(document: Any, form: StrEnum) -> None:
    """Print plain data as JSON, or as YAML."""
    if form.value == Data.YAML:
        import yaml

        plain = json.loads(json.dumps(document))  # protobuf's JSON has dicts of its own
        typer.echo(yaml.safe_dump(plain, sort_keys=False, width=120, allow_unicode=True), nl=False)
    else:
        typer.echo(json.dumps(document, indent=2))


def table(header: Iterable[str], rows: Iterable[Iterable[str]], gap: int = 5) -> list[str]:
    """Return lines of columns, ``gap`` blanks apart, five as istioctl's."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    between = " " * gap
    return [
        between.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
