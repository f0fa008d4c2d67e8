"""The command line: istioctl's verbs over meshlib, and the demo."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the `meshlib` command; without the `cli` extra, say how to install it and exit 1."""
    try:
        import typer  # noqa: F401 - only asked whether it is there
    except ModuleNotFoundError as error:
        sys.exit(
            f"the meshlib command needs {error.name}, which the extra `cli` installs:\n"
            "  pip install 'meshlib-proxyless[cli]'   (from a checkout: pip install -e '.[cli]')"
        )
    from meshlib.cli.app import run

    run()
