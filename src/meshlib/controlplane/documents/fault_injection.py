"""``HTTPFaultInjection``: requests that are delayed or refused on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import Duration, Message, Percent, Share, integer, one_of
from meshlib.controlplane.documents.place import Report

GRPC_STATUS = {
    status: code
    for code, status in enumerate(
        (
            "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
            "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
            "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
            "UNAUTHENTICATED",
        )
    )
}  # fmt: skip

Status = Annotated[int, integer(200, 599)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentage(Message):
    """``Percent``: 0 to 100."""

    value: Percent = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay(Message):
    """``HTTPFaultInjection.Delay``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"exponentialDelay"})

    fixed_delay: Duration | None = None
    percentage: Percentage | None = None
    percent: Share | None = None

    def check(self, report: Report) -> None:
        """A delay with no share of requests never happens."""
        if self.fixed_delay is None:
            report.error(self.at, "expected a field 'fixedDelay', and there is none")
        _check_share(self, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Message):
    """``HTTPFaultInjection.Abort``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"http2Error"})

    http_status: Status | None = None
    grpc_status: Annotated[str, one_of(*GRPC_STATUS)] | None = None
    percentage: Percentage | None = None
    percent: Share | None = None

    def check(self, report: Report) -> None:
        """Exactly one status, and some share of requests."""
        if (self.http_status is None) == (self.grpc_status is None):
            report.error(self.at, "expected one of httpStatus and grpcStatus")
        _check_share(self, report)


def _check_share(fault: Delay | Abort, report: Report) -> None:
    if fault.percentage is None and fault.percent is None:
        report.warning(fault.at, "has no percentage, so it never happens; write percentage: {value: 100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInjection(Message):
    """``HTTPFaultInjection``."""

    delay: Delay | None = None
    abort: Abort | None = None
