"""`meshlib demo`: the study's story, told by real processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from meshlib.cli.demo.screen import Screen
    from meshlib.cli.demo.stack import Stack


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("demo")(demo)


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; the story goes to stderr.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Keep everything running after the story.")] = False,
    mesh: Annotated[Path | None, typer.Option(help="Another folder of YAML than the examples'; it is copied.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the copy of the YAML and the logs behind.")] = False,
) -> None:
    """Tell the story of the study: a mesh of two services, without sidecars, steered live.

    Starts a control plane, catalog v1 and v2, webapp and a real Envoy as the gateway on
    loopback; lets the catalog fail, and mends the callers by writing YAML into a folder. Ends
    with a table and a small chart. Ctrl-C, or the end, leaves no process, port or file behind.
    """
    try:
        import starlette  # noqa: F401 - only asked whether the extra is there
        import uvicorn  # noqa: F401 - only asked whether the extra is there
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"the demo needs {error.name}; install the extra: pip install -e '.[demo]'", param_hint="meshlib demo"
        ) from None
    import json

    from rich.console import Console

    from meshlib.cli.demo.processes import DemoError
    from meshlib.cli.demo.screen import Screen
    from meshlib.cli.demo.stack import Stack
    from meshlib.cli.demo.story import tell
    from meshlib.xds.protos import otlp_conflict

    if conflict := otlp_conflict():
        raise DemoError(f"the demo shows traces. {conflict}")
    screen = Screen(Console(stderr=as_json))
    with _ended_by_signals(), Stack(mesh, screen, keep=keep) as stack:
        report = tell(stack, screen)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        if serve:
            _serve(stack, screen)
    if keep:
        screen.say(f"kept: {stack.directory}")


def _serve(stack: Stack, screen: Screen) -> None:
    screen.step("the mesh goes on; Ctrl-C ends it")
    screen.say(f"  the page          {stack.app_url}/")
    screen.say(f"  metrics           {stack.metrics_url}")
    screen.say(f"  curl {stack.app_url}/api/catalog")
    for version in ("v1", "v2"):
        screen.say(f"""  curl -d '{{"rate": 0.5, "status": 500}}' {stack.catalog_url(version)}/blowup""")
    screen.say(f"  meshlib proxy-status --address {stack.control_plane}")
    screen.say(f"  edit the YAML in  {stack.folder.path}")
    while True:
        stack.check()
        time.sleep(0.5)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that everything is cleaned up."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
