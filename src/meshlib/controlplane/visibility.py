"""Which namespaces see something: Istio's exportTo."""

from __future__ import annotations

from collections.abc import Sequence


def visible(export_to: Sequence[str], owner: str, namespace: str) -> bool:
    """Tell whether something of namespace ``owner`` is seen in ``namespace``."""
    return not export_to or "*" in export_to or namespace in export_to or ("." in export_to and namespace == owner)
