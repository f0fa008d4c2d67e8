"""Case files of the Envoy conformance corpus, and their configuration as an Envoy bootstrap."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "data" / "oracle"
Case = dict[str, Any]

_TYPES = "type.googleapis.com/envoy.extensions.filters"
_MANAGER = f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}


def names() -> list[str]:
    """Every case file, as ``routing/no-match``."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in FOLDER.glob("*/*.json"))


def load(name: str) -> Case:
    case: Case = json.loads((FOLDER / f"{name}.json").read_text())
    return case


def rendered(value: Any, address: Callable[[str], tuple[str, int]]) -> Any:
    """Put real addresses for symbolic ones (``upstream:NAME``)."""
    if isinstance(value, dict):
        socket = value.get("socket_address")
        if isinstance(socket, dict) and str(socket.get("address", "")).startswith("upstream:"):
            host, port = address(socket["address"].removeprefix("upstream:"))
            return {"socket_address": {"address": host, "port_value": port}}
        return {key: rendered(item, address) for key, item in value.items()}
    if isinstance(value, list):
        return [rendered(item, address) for item in value]
    return value


def merged(left: Any, right: Any) -> Any:
    """Merge two JSON documents; the right one wins."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left | {key: merged(left[key], item) if key in left else item for key, item in right.items()}
    return right


def bootstrap(case: Mapping[str, Any]) -> Case:
    """Return the case's configuration as ``static_resources``."""
    manager = {
        "@type": _MANAGER,
        "stat_prefix": "oracle",
        "route_config": case.get("route_config", {}),
        "http_filters": [*case.get("http_filters", []), merged(_ROUTER, {"typed_config": case.get("router", {})})],
        **case.get("hcm", {}),
    }
    listener = {
        "name": "oracle",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 10000}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": case.get("clusters", [])}}
