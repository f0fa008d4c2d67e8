"""Who this process is in the mesh, and where that is read from."""

from __future__ import annotations

import ast
import json
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshlib.errors import ConfigError

_log = logging.getLogger("meshlib")

# Where Istio's agent finds istiod unless PROXY_CONFIG says otherwise.
_DISCOVERY_ADDRESS = "istiod.istio-system.svc:15012"
# Where the downward API puts the pod's labels, as Istio's injected volume `istio-podinfo` has it.
_LABELS = "etc/istio/pod/labels"


@dataclass(frozen=True, slots=True)
class Identity:
    """The workload this process is: what Istio calls the node.

    Attributes:
        workload: name of the workload ("webapp"); also its ``app`` label unless given.
        namespace: its Kubernetes namespace.
        labels: its labels; ``app`` and ``version`` name it in metrics.
        service_account: its service account.
        ip: its address, part of the xDS node id.
        cluster_id: the Kubernetes cluster's id.
        mesh_id: the mesh's id.
        domain: the DNS suffix of services.
        pod: the pod's name; empty where there is none.
        trust_domain: the trust domain of SPIFFE identities.
        metadata: further metadata of the xDS node (ISTIO_META_*).
        proxy_config: Istio's ProxyConfig (PROXY_CONFIG); sent as the node's metadata, too.
    """

    workload: str = "unknown"
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"
    ip: str = "127.0.0.1"
    cluster_id: str = "Kubernetes"
    mesh_id: str = "cluster.local"
    domain: str = "cluster.local"
    pod: str = ""
    trust_domain: str = "cluster.local"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    proxy_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pod_name(self) -> str:
        """The pod's name, or ``WORKLOAD-PID`` where there is none."""
        return self.pod or f"{self.workload}-{os.getpid()}"

    @property
    def app(self) -> str:
        """The ``app`` label, else the workload's name."""
        return self.labels.get("app") or self.workload

    @property
    def version(self) -> str:
        """The ``version`` label, else ``latest`` (Istio's canonical revision)."""
        return self.labels.get("version") or "latest"

    @property
    def locality(self) -> tuple[str, str, str]:
        """Region, zone and sub-zone by label ``istio-locality``, where dots stand for slashes."""
        label = self.labels.get("istio-locality", "")
        region, _, rest = (label if "/" in label else label.replace(".", "/")).partition("/")
        zone, _, sub_zone = rest.partition("/")
        return region, zone, sub_zone

    def node_id(self, kind: str = "sidecar") -> str:
        """Return Istio's node id: ``kind~ip~pod.namespace~namespace.svc.domain``."""
        return f"{kind}~{self.ip}~{self.pod_name}.{self.namespace}~{self.namespace}.svc.{self.domain}"


def identity_from_env(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> Identity:
    """Read the identity from what Istio gives a pod, as Istio's agent reads it.

    That is POD_NAME, POD_NAMESPACE, SERVICE_ACCOUNT, INSTANCE_IP, TRUST_DOMAIN, ISTIO_META_*,
    ISTIO_METAJSON_*, PROXY_CONFIG, and the labels of ``/etc/istio/pod/labels``. MESHLIB_WORKLOAD,
    MESHLIB_NAMESPACE and MESHLIB_LABELS stand in outside of a pod.

    Args:
        environ: the environment, by default this process's.
        root: the folder that paths start from.

    Raises:
        ConfigError: PROXY_CONFIG cannot be read.
    """
    env = os.environ if environ is None else environ
    proxy_config = _proxy_config(env.get("PROXY_CONFIG", ""))
    metadata = _metadata(env, proxy_config)
    trust_domain = env.get("TRUST_DOMAIN") or "cluster.local"
    pod = env.get("POD_NAME") or env.get("HOSTNAME") or socket.gethostname()
    workload = env.get("MESHLIB_WORKLOAD") or str(metadata.get("WORKLOAD_NAME") or pod)
    return Identity(
        workload=workload,
        namespace=env.get("POD_NAMESPACE") or env.get("MESHLIB_NAMESPACE") or "default",
        labels=_labels(env, root),
        service_account=env.get("SERVICE_ACCOUNT") or "default",
        ip=env.get("INSTANCE_IP") or "127.0.0.1",
        cluster_id=str(metadata.get("CLUSTER_ID") or "Kubernetes"),
        mesh_id=str(metadata.get("MESH_ID") or trust_domain),
        pod=pod,
        trust_domain=trust_domain,
        metadata=metadata,
        proxy_config=proxy_config,
    )


def discovery_address(environ: Mapping[str, str], identity: Identity) -> str:
    """Return where Istio's environment says istiod is, empty outside of that environment.

    PROXY_CONFIG's ``discoveryAddress``, else Istio's default where PROXY_CONFIG, CA_ADDR or
    PILOT_CERT_PROVIDER shows that Istio made the environment. CA_ADDR itself may be of a CA that
    speaks no xDS.
    """
    address = identity.proxy_config.get("discoveryAddress", "")
    if not isinstance(address, str):
        raise ConfigError(f"PROXY_CONFIG: discoveryAddress: expected a string, not {address!r:.80}")
    if address:
        return address
    made = any(name in environ for name in ("PROXY_CONFIG", "CA_ADDR", "PILOT_CERT_PROVIDER"))
    return _DISCOVERY_ADDRESS if made else ""


def _proxy_config(text: str) -> Mapping[str, Any]:
    if not text.strip():
        return {}
    import yaml  # only here: `import meshlib` stays light

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("PROXY_CONFIG: is neither JSON nor YAML") from error
    if not isinstance(found, Mapping | None):
        raise ConfigError(f"PROXY_CONFIG: expected a mapping, not {found!r:.80}")
    return found or {}


def _metadata(env: Mapping[str, str], proxy_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node's metadata: proxyMetadata, then ISTIO_META_*, then what ISTIO_METAJSON_* hold."""
    given = proxy_config.get("proxyMetadata") or {}
    found: dict[str, Any] = {}
    for source in (given if isinstance(given, Mapping) else {}, env):
        for name, value in source.items():
            if name.startswith("ISTIO_META_"):
                found[name.removeprefix("ISTIO_META_")] = value
    for name in env:
        if name.startswith("ISTIO_METAJSON_"):  # the values' keys count, the variable's name does not
            found.update(_json(env, name))
    return found


def _labels(env: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the labels: ISTIO_METAJSON_LABELS, over them the pod's, over them MESHLIB_LABELS."""
    found = {key: str(value) for key, value in _json(env, "ISTIO_METAJSON_LABELS").items()}
    found |= _pod_labels(root / _LABELS)
    for pair in env.get("MESHLIB_LABELS", "").split(","):
        key, _, value = (part.strip() for part in pair.partition("="))
        if key and value:
            found[key] = value
    return found


def _json(env: Mapping[str, str], name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(env.get(name) or "{}")
    except ValueError:
        found = None
    if not isinstance(found, Mapping):
        _log.warning("variable=%s is ignored: expected a JSON object", name)
        return {}
    return found


def _pod_labels(path: Path) -> dict[str, str]:
    """Return the labels in a file of the downward API: a line each, ``key="value"`` quoted as Go does."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("labels=%s are ignored: %s", path, error)
        return {}
    found = {}
    for number, line in enumerate(lines, 1):
        key, equals, value = line.partition("=")
        # Kubernetes' own label of a ReplicaSet's pods says nothing of the workload.
        if not equals or key == "pod-template-hash":
            continue
        try:
            if value[:1] != '"':
                raise ValueError
            found[key] = str(ast.literal_eval(value))  # Go's escapes are Python's
        except (ValueError, SyntaxError):
            _log.warning('labels=%s:%d is ignored: expected key="value"', path, number)
    return found
