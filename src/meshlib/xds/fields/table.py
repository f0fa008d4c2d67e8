"""What becomes of the fields of one message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from meshlib.xds.faults import Status

NOT_HONOURED = "is not honoured"

# Reasons that many fields share.
PROXY = "about a proxy's downstream connections; a client in the process has none"
STATS = "names Envoy's own statistics; meshlib's are Istio's"
TRACE = "spans are named and sampled by OpenTelemetry's settings"
ACCESS_LOG = "calls are logged by meshlib's own access log"
ORIGIN = "says where it came from"
RUNTIME = "there is no runtime; the configured value counts"

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one message.

    Attributes:
        honoured: fields a decoder reads.
        irrelevant: fields that change nothing for a client in the process, with the reason.
        faulty: fields for which a decoder refuses the resource; what is inside them does not matter.
        noted: what happens for want of any other field, where "is not honoured" says too little.
    """

    honoured: frozenset[str] = frozenset()
    irrelevant: Mapping[str, str] = field(default_factory=dict)
    faulty: frozenset[str] = frozenset()
    noted: Mapping[str, tuple[Status, str]] = field(default_factory=dict)

    def note(self, name: str) -> tuple[Status, str] | None:
        """Return what to note of a field that is set, None for nothing."""
        if name in self.honoured or name in self.irrelevant or name in self.faulty:
            return None
        return self.noted.get(name, (Status.NOT_HONOURED, NOT_HONOURED))


def fields(
    honoured: str = "",
    irrelevant: Mapping[str, str] = _NONE,
    *,
    faulty: str = "",
    unsupported: Mapping[str, str] = _NONE,
    approximated: Mapping[str, str] = _NONE,
    refused: Mapping[str, str] = _NONE,
) -> Fields:
    """Return a table; ``honoured`` and ``faulty`` are names with spaces between."""
    noted = {
        name: (status, consequence)
        for status, consequences in (
            (Status.NOT_HONOURED, unsupported),
            (Status.APPROXIMATED, approximated),
            (Status.REFUSED, refused),
        )
        for name, consequence in consequences.items()
    }
    return Fields(frozenset(honoured.split()), irrelevant, frozenset(faulty.split()), noted)


def alike(names: str, reason: str) -> dict[str, str]:
    """Return one reason for several fields."""
    return dict.fromkeys(names.split(), reason)
