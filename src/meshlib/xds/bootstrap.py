"""Bootstrap: which servers to ask, as which node, and what is known without asking.

Three ways in: a gRPC xDS bootstrap (gRFC A27), an Envoy bootstrap, or an address with the
identity of this process. What a bootstrap says and meshlib cannot do is refused where it
matters (:class:`~meshlib.errors.BootstrapError`) and otherwise told in one warning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from meshlib import __version__
from meshlib.errors import BootstrapError
from meshlib.model.snapshot import Style
from meshlib.settings import Identity
from meshlib.xds.bootstrap_envoy import parse_envoy
from meshlib.xds.bootstrap_grpc import parse_grpc
from meshlib.xds.bootstrap_parts import Bootstrap, Json, Server, check_address, expect
from meshlib.xds.protos import base_pb2
from meshlib.xds.type_urls import CLUSTER, LISTENER

__all__ = ["ISTIO_VERSION", "Bootstrap", "Server", "for_address", "from_env", "load"]

# istiod turns features on by the version a node says it has; this is the one the sidecar
# resources that meshlib reads were recorded with.
ISTIO_VERSION = "1.31.0"


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
    return _parse(_document(text, str(path)), str(path))


def from_env(environ: Mapping[str, str]) -> Bootstrap | None:
    """Return the bootstrap that gRPC's variables name, None when they name none.

    GRPC_XDS_BOOTSTRAP, a file, wins over GRPC_XDS_BOOTSTRAP_CONFIG, the JSON itself (gRFC A27).
    """
    if path := environ.get("GRPC_XDS_BOOTSTRAP"):
        return load(path)
    if text := environ.get("GRPC_XDS_BOOTSTRAP_CONFIG"):
        return _parse(_document(text, "GRPC_XDS_BOOTSTRAP_CONFIG"), "GRPC_XDS_BOOTSTRAP_CONFIG")
    return None


def for_address(address: str, identity: Identity) -> Bootstrap:
    """Return a bootstrap for the server at ``address``, with Istio's sidecar node for ``identity``.

    A sidecar's, since istiod's generator for gRPC nodes drops most of a DestinationRule.

    Raises:
        BootstrapError: the address is none.
    """
    check_address(address, "address")
    node = base_pb2.Node(
        id=identity.node_id("sidecar"),
        cluster=f"{identity.app}.{identity.namespace}",
        user_agent_name="meshlib",
        user_agent_version=__version__,
    )
    node.metadata.update(
        {
            "NAME": identity.pod_name,
            "NAMESPACE": identity.namespace,
            "LABELS": {"app": identity.app, **identity.labels},
            "INSTANCE_IPS": identity.ip,
            "CLUSTER_ID": identity.cluster_id,
            "MESH_ID": identity.mesh_id,
            "SERVICE_ACCOUNT": identity.service_account,
            "WORKLOAD_NAME": identity.workload,
            "ISTIO_VERSION": ISTIO_VERSION,
        }
    )
    return Bootstrap((Server(address),), node, Style.SIDECAR, wildcards=frozenset({LISTENER, CLUSTER}))


def _document(text: str, origin: str) -> Json:
    try:
        document = json.loads(text)
    except ValueError:
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or error
            raise BootstrapError(f"{origin}{where}: is neither JSON nor YAML: {problem}") from error
    found: Json = expect(document, Mapping, origin)
    return found


def _parse(data: Json, origin: str) -> Bootstrap:
    if "xds_servers" in data:
        return parse_grpc(data, origin)
    if data.keys() & {"static_resources", "staticResources", "dynamic_resources", "dynamicResources"}:
        return parse_envoy(data, origin)
    raise BootstrapError(
        f"{origin}: is no bootstrap: expected xds_servers (gRPC's), or static_resources or dynamic_resources (Envoy's)"
    )
