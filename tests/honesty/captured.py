"""Readers of captured streams, whatever their protocol, and of the messages in an Any."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal.decoder import _DecodeVarint
from google.protobuf.message import DecodeError

from meshlib.xds.bootstrap_envoy import import_types
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import NAME_TABLE

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "xds"
_SHARED = ROOT.parent / "shared"


def captures(*, everything: bool = True) -> list[Path]:
    """List the captured streams: those of the repository, and all others that stand beside the checkout."""
    folders = [Path(os.environ.get("MESHLIB_ISTIOD_CAPTURES", _SHARED / "istiod")), _SHARED / "istiod-book"]
    found = sorted(DATA.glob("*.pb"))
    return found + [path for folder in folders if everything for path in sorted(folder.rglob("*.pb"))]


def resources(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield type URL and resources, each an Any, of every response of a type that is decoded."""
    data, at = path.read_bytes(), 0
    delta = "delta" in path.name
    kind = discovery_pb2.DeltaDiscoveryResponse if delta else discovery_pb2.DiscoveryResponse
    while at < len(data):
        length, at = _DecodeVarint(data, at)
        response = kind.FromString(data[at : at + length])
        at += length
        # Istio's name table is three plain fields, which tests/model/test_names.py looks at.
        if response.type_url in RESOURCE_TYPES and response.type_url != NAME_TABLE:
            yield response.type_url, [item.resource if delta else item for item in response.resources]


def content(packed: Any) -> Any | None:
    """Return the message in an Any, None for a type that no package here has, or bytes that are none."""
    kind = _kind(packed.type_url)
    try:
        return None if kind is None else kind.FromString(packed.value)
    except DecodeError:
        return None


@functools.cache
def _kind(type_url: str) -> Any | None:
    import_types({"@type": type_url})
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_url.rpartition("/")[2])
    except KeyError:
        return None
    return message_factory.GetMessageClass(descriptor)
