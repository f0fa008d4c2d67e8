"""Run the demo and draw its result into docs/images/demo.svg, for the README."""

import io
import re
from pathlib import Path

from rich.console import Console

from meshlib.cli.demo.screen import Screen
from meshlib.cli.demo.stack import Stack
from meshlib.cli.demo.story import tell

PICTURE = Path(__file__).parent.parent / "docs/images/demo.svg"


def main() -> None:
    """Tell the story on the terminal, and draw how it ends."""
    screen = Screen(Console())
    with Stack(None, screen) as stack:
        report = tell(stack, screen)
    paper = Console(record=True, width=84, file=io.StringIO())
    paper.print(report.render())
    PICTURE.parent.mkdir(exist_ok=True)
    picture = paper.export_svg(title="meshlib demo")
    # Rich's picture loads its font from the internet; any monospaced font does.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
