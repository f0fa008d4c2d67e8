"""`meshlib proxy-config listener|route|cluster|endpoint|all`: what a proxy is configured with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshlib.cli import options
from meshlib.cli.output import AsShown, Shown, emit, table
from meshlib.errors import ConfigError

if TYPE_CHECKING:
    from meshlib.controlplane.proxy_tables import Filter, Section
    from meshlib.controlplane.resources import Resources

_ALIASES = {
    "cluster": ("clusters", "c"),
    "listener": ("listeners", "l"),
    "route": ("routes", "r"),
    "endpoint": ("endpoints", "ep", "eds"),
    "all": ("a",),
}

Proxy = Annotated[
    str, typer.Argument(metavar="[NAME[.NAMESPACE]]", help="The client of the control plane; none: the only one.")
]
File = Annotated[Path | None, typer.Option("-f", "--file", help="Envoy's config dump in JSON, instead.")]
Xds = Annotated[
    str,
    typer.Option("--xds", metavar="HOST:PORT", help="The control plane, or a process that serves CSDS."),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Only of this port.")]
Verbose = Annotated[bool, typer.Option("--verbose/--no-verbose", help="Matches and destinations too.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``, with istioctl's short names."""
    group = typer.Typer(
        no_args_is_help=True, help="Show what a proxy, a gRPC client or a meshlib process is configured with."
    )
    for command in (cluster, listener, route, endpoint, everything):
        name = "all" if command is everything else command.__name__
        group.command(name)(command)
        for alias in _ALIASES[name]:
            group.command(alias, hidden=True)(command)
    app.add_typer(group, name="proxy-config")
    app.add_typer(group, name="pc", hidden=True)


def cluster(
    proxy: Proxy = "",
    file: File = None,
    xds: Xds = options.CONTROL_PLANE,
    fqdn: Annotated[str, typer.Option(help="Only of this host, or part of one.")] = "",
    port: Port = 0,
    subset: Annotated[str, typer.Option(help="Only this subset.")] = "",
    direction: Annotated[str, typer.Option(help="Only inbound or outbound.")] = "",
    output: AsShown = Shown.SHORT,
    timeout: options.AnswerWithin = 5.0,
    ca: options.Ca = None,
) -> None:
    """Show clusters: what can be called."""
    from meshlib.controlplane.proxy_tables import Filter

    chosen = Filter(fqdn=fqdn, port=port, subset=subset, direction=direction)
    _show("cluster", _resources(proxy, file, xds, timeout, ca), chosen, output)


def listener(
    proxy: Proxy = "",
    file: File = None,
    xds: Xds = options.CONTROL_PLANE,
    address: Annotated[str, typer.Option(help="Only on this address.")] = "",
    port: Port = 0,
    kind: Annotated[str, typer.Option("--type", help="Only HTTP, TCP, HTTP+TCP or UNKNOWN.")] = "",
    verbose: Verbose = True,
    output: AsShown = Shown.SHORT,
    timeout: options.AnswerWithin = 5.0,
    ca: options.Ca = None,
) -> None:
    """Show listeners: where calls begin."""
    from meshlib.controlplane.proxy_tables import Filter

    chosen = Filter(address=address, port=port, type=kind)
    _show("listener", _resources(proxy, file, xds, timeout, ca), chosen, output, verbose=verbose)


def route(
    proxy: Proxy = "",
    file: File = None,
    xds: Xds = options.CONTROL_PLANE,
    name: Annotated[str, typer.Option(help="Only this route table.")] = "",
    verbose: Verbose = True,
    output: AsShown = Shown.SHORT,
    timeout: options.AnswerWithin = 5.0,
    ca: options.Ca = None,
) -> None:
    """Show route tables: which call goes where."""
    from meshlib.controlplane.proxy_tables import Filter

    _show("route", _resources(proxy, file, xds, timeout, ca), Filter(name=name), output, verbose=verbose)


def endpoint(
    proxy: Proxy = "",
    file: File = None,
    xds: Xds = options.CONTROL_PLANE,
    address: Annotated[str, typer.Option(help="Only at this ADDRESS:PORT.")] = "",
    port: Port = 0,
    cluster: Annotated[str, typer.Option(help="Only of this cluster.")] = "",
    status: Annotated[str, typer.Option(help="Only with this health: healthy, unhealthy, ...")] = "",
    output: AsShown = Shown.SHORT,
    timeout: options.AnswerWithin = 5.0,
    ca: options.Ca = None,
) -> None:
    """Show endpoints: who answers."""
    from meshlib.controlplane.proxy_tables import Filter

    chosen = Filter(address=address, port=port, cluster=cluster, status=status)
    _show("endpoint", _resources(proxy, file, xds, timeout, ca), chosen, output)


def everything(
    proxy: Proxy = "",
    file: File = None,
    xds: Xds = options.CONTROL_PLANE,
    fqdn: Annotated[str, typer.Option(help="Clusters of this host, or part of one.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Clusters and listeners of this port.")] = 0,
    subset: Annotated[str, typer.Option(help="Clusters of this subset.")] = "",
    direction: Annotated[str, typer.Option(help="Clusters of this direction.")] = "",
    address: Annotated[str, typer.Option(help="Listeners on this address.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Listeners of this type.")] = "",
    name: Annotated[str, typer.Option(help="The route table.")] = "",
    verbose: Verbose = True,
    output: AsShown = Shown.SHORT,
    timeout: options.AnswerWithin = 5.0,
    ca: options.Ca = None,
) -> None:
    """Show clusters, listeners, route tables and endpoints; JSON and YAML as one config dump."""
    from meshlib.controlplane.config_dump import dump
    from meshlib.controlplane.proxy_tables import SECTIONS, Filter

    resources = _resources(proxy, file, xds, timeout, ca)
    if output is not Shown.SHORT:
        emit(dump(resources, proxy), output)
        return
    filters = {
        "cluster": Filter(fqdn=fqdn, port=port, subset=subset, direction=direction),
        "listener": Filter(address=address, port=port, type=kind),
        "route": Filter(name=name),
        "endpoint": Filter(),
    }
    for index, (kind_of, section) in enumerate(SECTIONS.items()):
        if index:
            typer.echo("")
        _print(section, section.messages(resources, filters[kind_of]), verbose=verbose, prefix=kind_of)


def _show(kind: str, resources: Resources, chosen: Filter, output: Shown, *, verbose: bool = True) -> None:
    from meshlib.controlplane.config_dump import as_dict
    from meshlib.controlplane.proxy_tables import SECTIONS

    section = SECTIONS[kind]
    if not resources.by_type[section.url] and kind != "endpoint":
        raise ConfigError(f"no {kind}s found")  # istioctl's words and exit code; of endpoints it shows none
    messages = section.messages(resources, chosen)
    if output is Shown.SHORT:
        _print(section, messages, verbose=verbose)
    else:
        emit([as_dict(message) for message in messages], output)


def _print(section: Section, messages: list[Any], *, verbose: bool, prefix: str = "") -> None:
    shown = section.table(messages, verbose, prefix)
    for line in table(shown.columns, shown.rows, shown.gap):
        typer.echo(line)


def _resources(proxy: str, file: Path | None, xds: str, timeout: float, ca: Path | None) -> Resources:
    from meshlib.controlplane.config_dump import undump, unpack
    from meshlib.controlplane.status import fetch_resources

    if file is None:
        return unpack(fetch_resources(xds, proxy, timeout=timeout, ca=ca).by_type)
    if proxy:
        raise typer.BadParameter("a client of the control plane or a file, not both", param_hint="--file")
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as a config dump: {error}") from error
    return undump(document)
