"""Where each part of the demo listens: as the YAML says where that port is free, else elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshlib.cli.demo.folder import MeshFolder, PortField
from meshlib.cli.demo.ports import Ports

# The study's ports; 30002 to 30004 are left to dashboards and tracing. Those that the YAML
# decides (the gateway's and the services') count only where it does not mention them.
GATEWAY, METRICS, WEBAPP, CONTROL_PLANE = 30000, 30001, 8080, 15010
CATALOG = {"v1": 3000, "v2": 3001}


@dataclass(slots=True)
class Addresses:
    """The ports of the demo, all on loopback.

    Attributes:
        services: port by (app, version), for catalog and webapp.
        gateway: the sample app, through the gateway.
        metrics: webapp's Prometheus endpoint.
        control_plane: ADS.
        otlp: the demo's own receiver of spans.
        admin: Envoy's.
    """

    services: dict[tuple[str, str], int] = field(default_factory=dict)
    gateway: int = 0
    metrics: int = 0
    control_plane: int = 0
    otlp: int = 0
    admin: int = 0

    @property
    def webapp(self) -> int:
        """The port of webapp itself."""
        return next(port for (app, _), port in self.services.items() if app == "webapp")

    @property
    def catalog(self) -> dict[str, int]:
        """The port of each version of catalog."""
        return {version: port for (app, version), port in self.services.items() if app == "catalog"}


def assign(folder: MeshFolder, ports: Ports) -> Addresses:
    """Choose every port, and write those that the YAML decides into ``folder``."""
    found = Addresses()

    def choose(entry: PortField) -> int:
        service = (entry.labels.get("app", ""), entry.labels.get("version", "v1"))
        if entry.kind == "WorkloadEntry" and service[0] in ("catalog", "webapp"):
            if service not in found.services:
                found.services[service] = ports.take(entry.value, " ".join(service))
            return found.services[service]
        # The gateway's port stands twice: where the Service leads, and where its workload listens.
        if entry.labels.get("istio") == "ingressgateway" and (entry.kind == "WorkloadEntry" or entry.port == 80):
            found.gateway = found.gateway or ports.take(entry.value, "the sample app")
            return found.gateway
        return entry.value

    folder.assign_ports(choose)
    for version, wanted in CATALOG.items():
        if ("catalog", version) not in found.services:
            found.services["catalog", version] = ports.take(wanted, f"catalog {version}")
    if not any(app == "webapp" for app, _ in found.services):
        found.services["webapp", "v1"] = ports.take(WEBAPP, "webapp")
    found.gateway = found.gateway or ports.take(GATEWAY, "the sample app")
    found.metrics = ports.take(METRICS, "webapp's metrics")
    found.control_plane = ports.take(CONTROL_PLANE, "the control plane")
    found.otlp, found.admin = ports.take_any(), ports.take_any()
    return found
