"""How an xDS client fares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshlib.xds.faults import Fault


@dataclass(frozen=True, slots=True)
class Status:
    """How the client fares; a value, replaced as a whole.

    Attributes:
        connected: whether a stream to the server in use is open.
        server: that server's address.
        last_error: "address: reason" of the last failure, empty again once the server answers.
        versions: the last version accepted, by LDS, RDS, CDS, EDS.
        faults: what is wrong with resources that were refused; their last good values are in force.
        waiting: resources asked for and not answered yet ("EDS outbound|80||catalog"), the first hundred.
        stale: whether what is in force is, in part at least, from the last-known-good file.
    """

    connected: bool = False
    server: str = ""
    last_error: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    waiting: tuple[str, ...] = ()
    stale: bool = False
