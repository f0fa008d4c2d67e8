"""The `meshlib` command: its verbs, and how errors reach people."""

from __future__ import annotations

import sys

import typer

from meshlib.cli import (
    analyze,
    capabilities,
    config_dump,
    control_plane,
    demo,
    describe,
    explain,
    fault,
    proxy_config,
    proxy_status,
    render,
    validate,
    version,
)
from meshlib.errors import MeshError

app = typer.Typer(
    name="meshlib",
    help="A service mesh inside Python, steered by Istio YAML or a control plane.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # so that docstrings reflow
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = (
    demo,
    control_plane,
    proxy_status,
    proxy_config,
    render,
    analyze,
    describe,
    explain,
    fault,
    capabilities,
    config_dump,
    validate,
    version,
)

# Each module has one command and imports what it needs when it runs, so that --help is quick.
for command in _COMMANDS:
    command.register(app)


_USAGE, _ISTIOCTL_USAGE = 2, 64  # exit codes for a command line that is not understood: click's, and istioctl's


def run() -> None:
    """Run the command; an error of ours is its message on stderr and exit code 1, no traceback."""
    try:
        app()
    except SystemExit as end:
        sys.exit(_ISTIOCTL_USAGE if end.code == _USAGE else end.code)
    except MeshError as error:
        sys.exit(f"meshlib: {error}")
