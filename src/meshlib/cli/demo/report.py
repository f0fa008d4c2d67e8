"""What the demo shows: a table, a small chart, the trace as a tree, and the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from meshlib.cli.demo.load import Stage
from meshlib.cli.demo.traces import Span, children, roots

_BAR = 24  # columns

# What each stage is, in a few words. The keys are those of the JSON.
STAGES = {
    "baseline": "all is well",
    "failing": "catalog fails half the time",
    "retrying": "the same, with retries",
    "slow": "catalog v2 takes 3 s",
    "ejection": "catalog v2 is dead, ejected",
}


@dataclass(slots=True)
class Report:
    """Everything the demo found out, filled in as the story goes on.

    Attributes:
        envoy: version of the gateway's Envoy; None where there is none.
        proxies: a row for each xDS client: name, kind and the state of its CDS, LDS, EDS, RDS.
        stages: what was measured, by the keys of :data:`STAGES`.
        config_push_ms: milliseconds from the close of the edited file until the last client
            concerned had acknowledged the new configuration.
        trace: the spans of one request.
        urls: where things can be seen while the demo runs, by what they are.
    """

    envoy: str | None = None
    proxies: list[dict[str, str]] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    config_push_ms: float | None = None
    trace: list[Span] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `meshlib demo --json` prints."""
        return {
            "proxies": self.proxies,
            **{name: self.stages[name].to_dict() for name in STAGES if name in self.stages},
            "config_push_ms": self.config_push_ms,
            "trace": [span.to_dict() for span in self.trace],
            "envoy": self.envoy,
        }

    def render(self) -> RenderableType:
        """Return the table, the chart and the tree."""
        parts: list[RenderableType] = [stage_table(self.stages), Text(), chart(self.stages)]
        if self.trace:
            parts += [Text(), trace_tree(self.trace)]
        if self.config_push_ms is not None:
            push = f"The edited YAML was in force {self.config_push_ms:.0f} ms after the file was closed; no restart."
            parts += [Text(), Text(push)]
        return Group(*parts)


def proxy_table(proxies: Sequence[dict[str, str]]) -> Table:
    """Return the clients of a control plane in istioctl's columns."""
    table = _table()
    for column in ("NAME", "KIND", "CDS", "LDS", "EDS", "RDS"):
        table.add_column(column, no_wrap=True)
    for proxy in proxies:
        states = [proxy[kind] for kind in ("cds", "lds", "eds", "rds")]
        cells = [Text(state, "green" if state == "SYNCED" else "yellow") for state in states]
        table.add_row(proxy["name"], proxy["kind"], *cells)
    return table


def stage_table(stages: dict[str, Stage]) -> Table:
    """Return the figures of every stage measured; attempts are those for one request."""
    table = _table()
    table.add_column("stage", no_wrap=True)
    for column in ("requests", "success", "p50", "p99", "attempts"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, stage in stages.items():
        rate = Text(f"{stage.success_rate:.1%}", style=_colour(stage))
        p50, p99 = (f"{stage.percentile_ms(percent):.0f} ms" for percent in (50, 99))
        table.add_row(STAGES[name], str(stage.requests), rate, p50, p99, f"{stage.attempts_per_request:.2f}")
    return table


def chart(stages: dict[str, Stage]) -> Table:
    """Return one bar for success and one for the median duration, for each stage.

    Durations are drawn on a logarithmic scale: they span four orders of magnitude.
    """
    table = _table()
    for column in ("", "success", "p50, p99 (log scale)"):
        table.add_column(column, no_wrap=True)
    for name, stage in stages.items():
        success = _bar(stage.success_rate, _colour(stage))
        table.add_row(name, success, _durations(stage))
    return table


def trace_tree(spans: Sequence[Span]) -> Tree:
    """Return the spans of one trace as a tree, each attempt with its endpoint and status."""
    tree = Tree(Text("one request's trace", style="bold"))

    def grow(branch: Tree, span: Span) -> None:
        twig = branch.add(_span_line(span))
        for child in children(spans, span.span_id):
            grow(twig, child)

    for root in roots(spans):
        grow(tree, root)
    return tree


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def _span_line(span: Span) -> Text:
    line = Text(span.service.partition(".")[0], style="bold cyan")
    line.append(f"  {_label(span)}", style="not bold default")
    # A call of meshlib's is followed by its attempts, each with its endpoint.
    if span.attempt or "upstream_address" in span.attributes:
        line.append(f" → {span.endpoint}", style="not bold magenta")
    if span.status is not None:
        line.append(f"  {span.status}", style="not bold red" if span.status >= 500 else "not bold green")
    elif span.error:
        line.append(f"  {span.error}", style="not bold red")
    line.append(f"  {span.duration_ms:.1f} ms", style="not bold dim default")
    return line


def _label(span: Span) -> str:
    """Say in a few words what a span is: an attempt, a request received, a call made."""
    if span.attempt:
        return f"attempt {span.attempt}"
    said = span.attributes
    method = said.get("http.request.method", said.get("http.method"))
    target = said.get("url.full") if span.kind == "CLIENT" else said.get("url.path", _path(said.get("http.url", "")))
    return f"{method} {target}" if method and target else span.kind.lower()


def _path(url: str) -> str:
    return urlsplit(url).path


def _colour(stage: Stage) -> str:
    if stage.success_rate >= 0.999:
        return "green"
    return "yellow" if stage.success_rate >= 0.9 else "red"


def _bar(share: float, style: str) -> Text:
    full = round(share * _BAR)
    bar = Text("█" * full, style=style)
    bar.append("░" * (_BAR - full), style="dim")
    return bar


def _durations(stage: Stage) -> Text:
    p50, p99 = (_log_share(stage.percentile_ms(percent)) for percent in (50, 99))
    bar = Text("█" * p50, style="blue")
    bar.append("▒" * (p99 - p50), style="blue")
    return bar


def _log_share(milliseconds: float) -> int:
    """Return the columns for a duration, 1 ms to 10 s over the bar's width."""
    return round(_BAR * min(1.0, max(0.04, math.log10(max(milliseconds, 1.0)) / 4)))
