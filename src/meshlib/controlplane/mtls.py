"""PeerAuthentication: which workloads take mTLS, seen from their clients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from meshlib.controlplane.documents.security import PeerAuthentication
from meshlib.controlplane.options import MeshOptions

_UNSET, _DEFAULT = "UNSET", "PERMISSIVE"


class MutualTls:
    """The modes in force. Of several policies for the same, the oldest counts (Istio's rule)."""

    def __init__(self, policies: Iterable[PeerAuthentication], options: MeshOptions) -> None:
        self._namespaces: dict[str, str] = {}
        self._workloads: dict[str, list[PeerAuthentication]] = defaultdict(list)
        for policy in sorted(policies, key=lambda item: item.age):
            if policy.labels_chosen:
                self._workloads[policy.namespace].append(policy)
            elif policy.mode != _UNSET:
                self._namespaces.setdefault(policy.namespace, policy.mode)
        self._mesh = self._namespaces.get(options.root_namespace, _DEFAULT)

    def namespace(self, namespace: str) -> str:
        """Return the mode of a namespace: its own, else the mesh's, else PERMISSIVE."""
        return self._namespaces.get(namespace, self._mesh)

    def ports(self, namespace: str, labels: Mapping[str, str]) -> list[int]:
        """Return the ports of a workload that have a mode of their own."""
        for policy in self._workloads.get(namespace, ()):
            if all(labels.get(key) == value for key, value in policy.labels_chosen.items()):
                return [int(port) for port in policy.spec.port_level_mtls] if policy.spec else []
        return []

    def workload(self, namespace: str, labels: Mapping[str, str], port: int) -> str:
        """Return the mode of one port of a workload."""
        for policy in self._workloads.get(namespace, ()):
            if all(labels.get(key) == value for key, value in policy.labels_chosen.items()):
                on_port = policy.spec.port_level_mtls.get(str(port)) if policy.spec else None
                mode = on_port.mode if on_port is not None and on_port.mode != _UNSET else policy.mode
                return self.namespace(namespace) if mode == _UNSET else mode
        return self.namespace(namespace)
