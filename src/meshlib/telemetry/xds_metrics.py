"""The xDS client's metrics (gRFC A78), read at scrape time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from meshlib.xds.inventory import Inventory, ServerCounts

_log = logging.getLogger("meshlib.telemetry")
_SERVER = ("grpc_xds_server",)
_UPDATES = (*_SERVER, "grpc_xds_resource_type")
_RESOURCES = ("grpc_xds_authority", "grpc_xds_cache_state", "grpc_xds_resource_type")


class XdsFamilies:
    """One scrape's metric families of the xDS client.

    The names and labels are gRFC A78's with underscores for dots. There is no ``grpc_target``: one
    client serves all targets of a mesh.
    """

    def __init__(self) -> None:
        name = "grpc_xds_client_"
        self.connected = GaugeMetricFamily(
            f"{name}connected", "Whether the server works: 0 from a failure until a response.", labels=_SERVER
        )
        self.failures = CounterMetricFamily(
            f"{name}server_failure", "How often a server went from working to failing.", labels=_SERVER
        )
        self.valid = CounterMetricFamily(
            f"{name}resource_updates_valid", "Resources received that were good.", labels=_UPDATES
        )
        self.invalid = CounterMetricFamily(
            f"{name}resource_updates_invalid", "Resources received that were refused.", labels=_UPDATES
        )
        self.resources = GaugeMetricFamily(f"{name}resources", "Resources by their state.", labels=_RESOURCES)

    def __iter__(self) -> Iterator[Metric]:
        return iter(vars(self).values())

    def take(self, look: Callable[[], Inventory]) -> None:
        """Fill the families; without an answer from the client they stay empty, and the log says so."""
        try:
            found = look()
        except TimeoutError:
            _log.warning("the xDS client is closed, or too busy to answer: its metrics are left out of this scrape")
            return
        for server in found.servers:
            self._add(server)
        for labels, count in sorted(found.counted().items()):
            self.resources.add_metric(labels, count)

    def _add(self, server: ServerCounts) -> None:
        self.connected.add_metric((server.address,), server.working)
        self.failures.add_metric((server.address,), server.failures)
        for family, counts in ((self.valid, server.valid), (self.invalid, server.invalid)):
            for type_url, count in counts.items():
                family.add_metric((server.address, type_url.rpartition("/")[2]), count)
