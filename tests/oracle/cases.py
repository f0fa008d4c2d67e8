"""Case files of the Envoy conformance corpus, and their configuration as an Envoy bootstrap."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "data" / "oracle"
Case = dict[str, Any]

_TYPES = "type.googleapis.com/envoy.extensions.filters"
_MANAGER = f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}
# The node that the corpus's Envoy called itself.
_NODE = {"id": "oracle", "cluster": "oracle", "locality": {"zone": "z1"}}

# Every field that the replayer knows, by where it stands; one that is not here would be passed over in silence.
_FIELDS = {
    "case": "format name corpus topic why in_process oracle kind half stats observed_stats dropped loglevel warmup_ms "
    "hcm router runtime route_config clusters http_filters upstreams requests observed record_all node_locality "
    "record_response_noise mirror_upstreams settle_ms loose_upstream fixed_addresses",
    "upstream": "mode default h2 address",
    "request": "type id method authority path headers body chunked body_delay_ms client_abort_ms give_up_ms source "
    "settle_ms script utf8 config keep why note",
    "burst": "type id method authority path headers body script count stagger_ms settle_ms source why note",
    "sample": "type id method authority path headers body script count concurrency gap_ms sequence settle_ms source "
    "why note",
    "map": "type id method authority path headers body script header format query values by_source settle_ms why note",
    "sleep": "type ms why note",
    "upstream step": "type upstream mode why note",
    "eds": "type cluster load_assignment wait_ms why note",
    "behaviour": "status headers body delay_ms body_delay_ms hang abort early reset_on_body conn_close interim "
    "trailers garbage chunked rst rst_after_headers goaway last_stream trailers_only",
}
_KNOWN = {place: frozenset(fields.split()) for place, fields in _FIELDS.items()}


def names(folder: Path = FOLDER) -> list[str]:
    """Every case file of a folder and those in it, as ``routing/no-match``."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json"))


def load(name: str, folder: Path = FOLDER) -> Case:
    case: Case = json.loads((folder / f"{name}.json").read_text())
    return case


def in_process(case: Case, observation: Mapping[str, Any]) -> bool:
    """Whether an observation means anything to a client in the process; the case file alone says so."""
    return case.get("in_process") is not False and observation.get("in_process") is not False


def unknown(case: Case) -> list[str]:
    """Return the fields of a case that the replayer does not know, but for those of its steps."""
    found = _unknown("case", case)
    for name, spec in case.get("upstreams", {}).items():
        found += [f"upstreams.{name}.{key}" for key in _unknown("upstream", spec)]
        found += [f"upstreams.{name}.default.{key}" for key in _of_lines(spec.get("default"))]
    return found


def unknown_of_step(step: Mapping[str, Any]) -> list[str]:
    """Return the fields of a step that the replayer does not know."""
    kind = step.get("type", "request")
    place = "upstream step" if kind == "upstream" else kind
    if place not in _KNOWN:
        return [f"type {kind!r}"]
    return [*_unknown(place, step), *(f"script.{key}" for key in _of_script(step.get("script")))]


def _unknown(place: str, given: Mapping[str, Any]) -> list[str]:
    return sorted(set(given) - _KNOWN[place])


def _of_lines(lines: Any) -> Iterator[str]:
    """Yield the unknown fields of a behaviour, or of a list of them."""
    for line in lines if isinstance(lines, list) else [lines or {}]:
        yield from _unknown("behaviour", line)


def _of_script(script: Any) -> Iterator[str]:
    """Yield the unknown fields of a list of behaviours, or of such lists by upstream."""
    for lines in script.values() if isinstance(script, dict) else [script]:
        yield from _of_lines(lines)


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
        "generate_request_id": False,
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
    return {
        "node": merged(_NODE, {"locality": case.get("node_locality", {})}),
        "layered_runtime": {"layers": [{"name": "static", "static_layer": case.get("runtime", {})}]},
        "static_resources": {"listeners": [listener], "clusters": case.get("clusters", [])},
    }
