"""``localityLbSetting``, of a DestinationRule or of the whole mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from meshlib.controlplane.documents.fields import Key, Message, Name, Share
from meshlib.controlplane.documents.place import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribute(Message):
    """``Distribute``: shares of the calls from a locality, in percent, by where they go."""

    from_: Annotated[str, Key("from")]
    to: Mapping[str, Share] = field(default_factory=dict)

    def check(self, report: Report) -> None:
        """The shares make 100 (Istio's rule)."""
        total = sum(self.to.values())
        if total != 100:
            report.error(self.at.child("to"), f"expected shares that add up to 100, got {total}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failover(Message):
    """``Failover``: the region that is used next when one has nothing healthy."""

    from_: Annotated[str, Key("from")] = ""
    to: str = ""

    def check(self, report: Report) -> None:
        """Two regions."""
        if self.from_ and self.from_ == self.to:
            report.error(self.at.child("to"), "expected another region than 'from'")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalityLb(Message):
    """``LocalityLoadBalancerSetting``."""

    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[Name, ...] = ()
    enabled: bool = True

    def check(self, report: Report) -> None:
        """One way or the other."""
        if self.distribute and (self.failover or self.failover_priority):
            report.error(self.at, "expected one of distribute and failover, got both")
