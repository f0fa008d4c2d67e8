"""Where a name is to be asked for: what a ``core.v3.ConfigSource`` beside it says.

What comes from the ADS stream goes by its own name. The name of anything else is put behind the
place it is in (``path:/etc/mesh/eds.yaml#catalog``), so that two sources that use the same name do
not meet, here as in Envoy, and no server is asked for what another one has.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from meshlib.xds.scope import Scope

_PATH, _CLUSTER, _STATIC = "path:", "cluster:", "static:"


class Elsewhere(NamedTuple):
    """A name that the ADS stream is not asked for.

    Attributes:
        path: the file it is in, empty for none.
        watched_directory: the folder to watch; empty for the file's own.
        cluster: the cluster that answers for it, empty for none.
        name: what it is called there.
    """

    path: str
    watched_directory: str
    cluster: str
    name: str


def elsewhere(qualified: str) -> Elsewhere | None:
    """Return where a name is, None for one that goes by itself."""
    if not qualified.startswith((_PATH, _CLUSTER, _STATIC)):
        return None
    place, _, name = qualified.partition("#")
    kind, _, rest = place.partition(":")
    path, _, folder = rest.partition("|")
    if kind == "path":
        return Elsewhere(path, folder, "", name)
    return Elsewhere("", "", rest if kind == "cluster" else "", name)


def in_file(path: str, watched_directory: str, name: str) -> str:
    """Return the name of what is in a file."""
    return f"{_PATH}{path}{'|' + watched_directory if watched_directory else ''}#{name}"


def by_cluster(cluster: str, name: str) -> str:
    """Return the name of what a cluster answers for."""
    return f"{_CLUSTER}{cluster}#{name}"


def static(name: str) -> str:
    """Return the name of what is in the bootstrap."""
    return f"{_STATIC}#{name}"


def qualified(scope: Scope, field: str, config: Any, name: str) -> str:
    """Return the name to ask for: in the ADS stream or in a file; a fault for other sources."""
    place = scope.at(field)
    place.audit(config)
    kind = config.WhichOneof("config_source_specifier")
    if kind in ("ads", "self"):
        return name
    found = file_of(config)
    if found is None:
        scope.fault(field, f"{kind or 'nothing'} is not supported: expected ads or path_config_source")
        return name
    if not found[0]:
        place.fault(f"{kind}.path" if kind != "path" else kind, "must not be empty")
    return in_file(*found, name)


def file_of(config: Any) -> tuple[str, str] | None:
    """Return the file of a ``ConfigSource`` and the folder to watch; None where it is no file."""
    kind = config.WhichOneof("config_source_specifier")
    if kind == "path":
        return config.path, ""
    if kind == "path_config_source":
        return config.path_config_source.path, config.path_config_source.watched_directory.path
    return None
