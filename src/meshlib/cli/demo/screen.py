"""Where the story is told: a terminal with progress, or plain lines where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Screen:
    """Tells the story step by step.

    Args:
        console: where to; stderr when stdout is kept for JSON.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def step(self, text: str) -> None:
        """Begin a chapter."""
        self.console.print(f"\n[bold]{text}[/bold]", highlight=False)

    def say(self, text: str) -> None:
        """Say one line, as it is."""
        self.console.print(text, markup=False, highlight=False)

    def show(self, renderable: RenderableType) -> None:
        """Show a table, a chart or a tree."""
        self.console.print(renderable)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar while the block runs; the function it gives moves the bar by one."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(what, total=total)
            yield lambda: progress.advance(task)
