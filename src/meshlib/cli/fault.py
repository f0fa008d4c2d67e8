"""`meshlib fault`: a fault on a service for some minutes, and off again."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from meshlib.errors import ConfigError

if TYPE_CHECKING:
    from meshlib.controlplane.fault_file import Injection

_LOOK = 0.5  # seconds between looks at the folder, whose routes the fault follows
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("fault")(fault)


def fault(
    service: Annotated[str, typer.Argument(metavar="SERVICE[.NAMESPACE]", help="The service whose calls suffer.")] = "",
    config: Annotated[Path, typer.Option(help="The folder of YAML that the mesh is steered by.")] = Path("mesh"),
    abort: Annotated[int | None, typer.Option(min=200, max=599, help="HTTP status that calls get.")] = None,
    delay: Annotated[str, typer.Option(help="How long calls are held back: 2s, 500ms.")] = "",
    percent: Annotated[float, typer.Option(min=0, max=100, help="Share of the calls.")] = 100.0,
    lasting: Annotated[str, typer.Option("--for", help="How long the fault stays: 30s, 5m, 1h.")] = "5m",
    off: Annotated[bool, typer.Option("--off", help="Take off what a command that was killed left behind.")] = False,
) -> None:
    """Put a fault on a service, wait, and take it off again; Ctrl-C takes it off at once.

    It is a file in the folder: a copy of the VirtualService in force with the fault on each route,
    kept up to date while the folder changes. Calls within the mesh suffer; what a gateway
    routes by a VirtualService of its own does not.
    """
    from meshlib.controlplane.fault_file import PREFIX, Injection, file_name

    if off:
        left = sorted([*config.glob(f"{PREFIX}*.json"), *config.glob(f".{PREFIX}*.json")])
        for path in left:
            path.unlink(missing_ok=True)
            typer.echo(f"took off {path}")
        if not left:
            typer.echo(f"no fault is on in {config}/", err=True)
        return
    if not service or (abort is None and not delay):
        raise typer.BadParameter("name a service, and --abort or --delay, or both")
    seconds = _seconds(lasting)
    name, _, namespace = service.partition(".")
    namespace = namespace or "default"
    path = config / file_name(name, namespace)
    if path.exists():
        raise ConfigError(f"there is a fault on {service} already ({path}); `meshlib fault --off` takes it off")
    with _signals() as ending:
        _put_on(path, name, namespace, Injection(abort, delay, percent), seconds, ending)


def _put_on(
    path: Path, name: str, namespace: str, injection: Injection, seconds: float, ending: threading.Event
) -> None:
    end = time.monotonic() + seconds
    until = f"{datetime.datetime.now().astimezone() + datetime.timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S %z}"
    try:
        _write(path, name, namespace, injection, until)
        typer.echo(f"fault on {name}.{namespace} until {until} ({path}); Ctrl-C takes it off")
        while (rest := end - time.monotonic()) > 0 and not ending.wait(min(rest, _LOOK)):
            _write(path, name, namespace, injection, until)
    finally:
        for left in (path, _draft(path)):
            left.unlink(missing_ok=True)
    typer.echo(f"fault on {name}.{namespace} taken off")


def _write(path: Path, name: str, namespace: str, injection: Injection, until: str) -> None:
    """Write the file if it has to be another, whole or not at all: whoever watches the folder reads no half."""
    from meshlib.controlplane.fault_file import content
    from meshlib.controlplane.folder import read_folder

    files = {key: value for key, value in read_folder(path.parent).files.items() if key != path.name}
    wanted = content(files, name, namespace, injection, until)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == wanted:
            return
    _draft(path).write_bytes(wanted)
    os.replace(_draft(path), path)


def _draft(path: Path) -> Path:
    """Return where the file is written first; readers of the folder skip names with a dot."""
    return path.with_name(f".{path.name}")


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Turn the signals that end a process into an event, so that what was put on is taken off."""
    ending = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ending.set()

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    former = {number: signal.signal(number, end) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _seconds(written: str) -> float:
    found = _DURATION.fullmatch(written)
    if not found:
        raise typer.BadParameter(f"expected a time like 30s, 5m or 1h, got {written!r}", param_hint="--for")
    return float(found[1]) * _UNITS[found[2]]
