"""Bootstrap: which servers to ask, as which node, and what is known without asking.

Three ways in: a gRPC xDS bootstrap (gRFC A27), an Envoy bootstrap, or an address with the
identity of this process. What a bootstrap says and meshlib cannot do is refused where it
matters (:class:`~meshlib.errors.BootstrapError`) and otherwise told in one warning.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshlib.errors import BootstrapError
from meshlib.xds.bootstrap_envoy import parse_envoy
from meshlib.xds.bootstrap_grpc import parse_grpc
from meshlib.xds.bootstrap_istio import Security, Surroundings, for_address
from meshlib.xds.bootstrap_parts import Bootstrap, Json, Server, expect
from meshlib.xds.documents import read_document

__all__ = ["Bootstrap", "Security", "Server", "Surroundings", "for_address", "from_env", "load"]


def load(source: str | os.PathLike[str] | Mapping[str, Any]) -> Bootstrap:
    """Return the bootstrap in a file (JSON or YAML) or a dict, Envoy's or gRPC's.

    Raises:
        BootstrapError: names the file, the field and what was expected.
    """
    if isinstance(source, Mapping):
        return _parse(source, "bootstrap")
    path = Path(source)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BootstrapError(f"{path}: cannot be read: {error}") from error
    return _parse(_mapping(text, str(path)), str(path))


def from_env(environ: Mapping[str, str]) -> Bootstrap | None:
    """Return the bootstrap that gRPC's variables name, None when they name none.

    GRPC_XDS_BOOTSTRAP, a file, wins over GRPC_XDS_BOOTSTRAP_CONFIG, the JSON itself (gRFC A27).
    """
    if path := environ.get("GRPC_XDS_BOOTSTRAP"):
        return load(path)
    if text := environ.get("GRPC_XDS_BOOTSTRAP_CONFIG"):
        return _parse(_mapping(text, "GRPC_XDS_BOOTSTRAP_CONFIG"), "GRPC_XDS_BOOTSTRAP_CONFIG")
    return None


def _mapping(text: str, origin: str) -> Json:
    found: Json = expect(read_document(text, origin), Mapping, origin)
    return found


def _parse(data: Json, origin: str) -> Bootstrap:
    if "xds_servers" in data:
        return parse_grpc(data, origin)
    if data.keys() & {"static_resources", "staticResources", "dynamic_resources", "dynamicResources"}:
        return parse_envoy(data, origin)
    raise BootstrapError(
        f"{origin}: is no bootstrap: expected xds_servers (gRPC's), or static_resources or dynamic_resources (Envoy's)"
    )
