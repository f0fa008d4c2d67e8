"""What a check must find in what it received."""

from __future__ import annotations

from collections.abc import Sequence


def contains(data: bytes, blocks: Sequence[bytes]) -> bool:
    """Tell whether all ``blocks`` are in ``data``, in this order, other bytes between them or not."""
    at = 0
    for block in blocks:
        at = data.find(block, at)
        if at < 0:
            return False
        at += len(block)
    return True
