"""`meshlib analyze mesh/`: what is wrong with a folder of YAML beyond what does not parse, as `istioctl analyze`."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshlib.cli.output import AsTold, Told, emit
from meshlib.errors import ConfigError

if TYPE_CHECKING:
    from meshlib.controlplane.analysis import Finding, Level

ISSUES, UNREADABLE = 79, 65  # istioctl's exit codes


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("analyze")(analyze)


def analyze(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH...", help="Folders and files of YAML.")] = None,
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Only this namespace; objects that name none are in it.")
    ] = "",
    everywhere: Annotated[bool, typer.Option("-A", "--all-namespaces", help="All namespaces, the default.")] = False,
    failure_threshold: Annotated[str, typer.Option(help="Level from which the exit code is 79.")] = "Error",
    output_threshold: Annotated[str, typer.Option(help="Level from which findings are shown.")] = "Info",
    suppress: Annotated[
        list[str] | None,
        typer.Option("-S", "--suppress", metavar="CODE=KIND NAME.NAMESPACE", help="Leave out; * stands for anything."),
    ] = None,
    checks: Annotated[bool, typer.Option("-L", "--list-analyzers", help="Only list the checks.")] = False,
    output: AsTold = Told.LOG,
) -> None:
    """Tell what would not work as it seems to: istioctl's checks with its codes (IST), and some of ours (MSH).

    Exits with 79 when something is at or above the failure threshold, with 65 when a file could
    not be parsed, as istioctl; with `-o json` and `-o yaml` findings leave the exit code alone. Checks whose
    input is not among the files are named on stderr.
    """
    from meshlib.controlplane import analysis

    if checks:
        for check in analysis.CHECKS:
            typer.echo(f"* {check.name}:\n{(check.run.__doc__ or '').strip()}")
        return
    if not paths:
        raise typer.BadParameter("name a folder or a file", param_hint="PATH")
    try:
        failing, showing = (analysis.Level.named(word) for word in (failure_threshold, output_threshold))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    done = analysis.analyze(_files(paths), namespace=namespace or "default")
    chosen = [item for item in done.findings if (not namespace or everywhere) or item.namespace == namespace]
    chosen = [item for item in chosen if not _suppressed(item, suppress or [])]
    shown = [item for item in chosen if item.level >= showing]
    for fault in done.unreadable:
        typer.echo(str(fault), err=True)
    for name, why in done.skipped.items():
        typer.echo(f"skipped {name}: {why}", err=True)
    if output is not Told.LOG:
        emit([_to_dict(item) for item in shown], output)
        raise typer.Exit(UNREADABLE if done.unreadable else 0)
    _log(shown, chosen, failing, f"namespace: {namespace}" if namespace and not everywhere else "all namespaces")
    bad = any(item.level >= failing for item in chosen)
    raise typer.Exit(ISSUES if bad else UNREADABLE if done.unreadable else 0)


def _log(shown: list[Finding], chosen: list[Finding], failing: Level, what: str) -> None:
    for item in shown:
        typer.echo(str(item))
    if any(item.level >= failing for item in chosen):
        typer.echo(f"Error: Analyzers found issues when analyzing {what}.", err=True)
    elif not shown:
        typer.echo(f"✔ No validation issues found when analyzing {what}.", err=True)


def _files(paths: list[Path]) -> dict[str, bytes]:
    """Return the files by the name under which they are told of.

    Raises:
        ConfigError: a folder or file is not there, or cannot be read.
    """
    from meshlib.controlplane.folder import read_folder

    files: dict[str, bytes] = {}
    for path in paths:
        if path.is_dir():
            listing = read_folder(path)
            files |= {str(path / name): content for name, content in listing.files.items()}
            for fault in listing.faults:
                typer.echo(str(fault), err=True)
            continue
        try:
            files[str(path)] = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    return files


def _suppressed(item: Finding, patterns: list[str]) -> bool:
    kind, _, full = item.resource.partition(" ")
    namespace, slash, name = full.rpartition("/")
    who = f"{kind} {name}.{namespace}" if slash else item.resource
    for pattern in patterns:
        code, _, wanted = pattern.partition("=")
        if code == item.code and fnmatch.fnmatchcase(who, wanted):
            return True
    return False


def _to_dict(item: Finding) -> dict[str, Any]:
    found = {"code": item.code, "level": item.level.word, "message": item.message, "origin": item.resource}
    if item.code.startswith("IST"):
        site = "https://istio.io/latest/docs/reference/config/analysis"
        found["documentationUrl"] = f"{site}/{item.code.lower()}/"
    return {**found, "reference": item.reference, "file": item.file, "line": item.line, "column": item.column}
