"""Sphinx: MyST Markdown, furo. `make docs` builds with warnings as errors."""

import tomllib
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_VERSION = next(
    line.split('"')[1]
    for line in (_ROOT / "src/meshlib/__init__.py").read_text("utf-8").splitlines()
    if line.startswith("__version__")
)

project = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["name"]
author = "the meshlib authors"
project_copyright = f"2026, {author}"
release = version = _VERSION

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"meshlib {_VERSION}"
exclude_patterns = ["build"]
# A fence may say `python no-run`; the tests read the second word, the highlighter must not.
suppress_warnings = ["misc.highlighting_failure"]
