"""Who this process is in the mesh, and where that is read from."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field


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

    def node_id(self, kind: str = "sidecar") -> str:
        """Return Istio's node id: ``kind~ip~pod.namespace~namespace.svc.domain``."""
        return f"{kind}~{self.ip}~{self.pod_name}.{self.namespace}~{self.namespace}.svc.{self.domain}"


def identity_from_env(environ: Mapping[str, str] | None = None) -> Identity:
    """Read the identity from Istio's variables (POD_NAME, POD_NAMESPACE, ISTIO_META_*, …)."""
    env = os.environ if environ is None else environ
    pod = env.get("POD_NAME") or env.get("HOSTNAME") or socket.gethostname()
    workload = env.get("MESHLIB_WORKLOAD") or env.get("ISTIO_META_WORKLOAD_NAME") or pod
    labels = {
        key: value
        for pair in env.get("MESHLIB_LABELS", "").split(",")
        if (key := pair.partition("=")[0].strip()) and (value := pair.partition("=")[2].strip())
    }
    return Identity(
        workload=workload,
        namespace=env.get("POD_NAMESPACE") or env.get("MESHLIB_NAMESPACE") or "default",
        labels=labels,
        service_account=env.get("SERVICE_ACCOUNT") or "default",
        ip=env.get("INSTANCE_IP") or "127.0.0.1",
        cluster_id=env.get("ISTIO_META_CLUSTER_ID") or "Kubernetes",
        mesh_id=env.get("ISTIO_META_MESH_ID") or "cluster.local",
        pod=pod,
    )
