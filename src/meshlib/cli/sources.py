"""Where a command takes its configuration from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from meshlib.mesh import Mesh


def mesh_of(
    config: Path | None,
    address: str | None,
    bootstrap: Path | None,
    workload: str,
    namespace: str,
    *,
    on_demand: bool = True,
) -> Mesh:
    """Return the mesh that a command line describes; without any of the three, the environment's.

    With ``on_demand`` False, endpoints nobody calls are there as well, except from the environment.
    """
    from meshlib.mesh import Mesh

    if sum(source is not None for source in (config, address, bootstrap)) > 1:
        raise typer.BadParameter("give one of --config, --address and --bootstrap")
    if config is not None:
        return Mesh.from_directory(config, workload=workload, namespace=namespace)
    if address is not None:
        return Mesh.connect(address, workload=workload, namespace=namespace, on_demand=on_demand)
    if bootstrap is not None:
        return Mesh.from_bootstrap(bootstrap, on_demand=on_demand)
    return Mesh.from_env()
