"""Count `type: ignore`, `noqa` and `no cover`; fail when one lacks its reason on the same line.

Usage: python scripts/count_exemptions.py DIRECTORY...
"""

import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Each pattern takes the marker with its codes; what remains of the comment must be a reason.
EXEMPTIONS = {
    "type: ignore": re.compile(r"#\s*type:\s*ignore(\[[\w\-, ]*\])?"),
    "noqa": re.compile(r"#\s*(ruff:\s*)?noqa(:\s*[A-Z]+\d+([,\s]+[A-Z]+\d+)*)?"),
    "no cover": re.compile(r"#\s*pragma:\s*no cover"),
}
REASON = re.compile(r"\w+\W+\w+")  # two words at the least


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, comment) of a Python file; strings that look like comments are not."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def exemptions(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield (line number, kind, whether it has a reason) of every exemption in a file."""
    for line, comment in comments(path):
        kinds = [kind for kind, pattern in EXEMPTIONS.items() if pattern.search(comment)]
        rest = comment
        for kind in kinds:
            rest = EXEMPTIONS[kind].sub("", rest)
        for kind in kinds:
            yield line, kind, bool(REASON.search(rest))


def main() -> int:
    """Print the counts; return 1 when an exemption has no reason."""
    counts = Counter(dict.fromkeys(EXEMPTIONS, 0))
    bare = 0
    for directory in sys.argv[1:]:
        for path in sorted(Path(directory).rglob("*.py")):
            for line, kind, reasoned in exemptions(path):
                counts[kind] += 1
                if not reasoned:
                    bare += 1
                    print(f"{path}:{line}: {kind} without a reason beside it")
    print(", ".join(f"{kind}: {count}" for kind, count in counts.items()))
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
