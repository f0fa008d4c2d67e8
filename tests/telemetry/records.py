"""Calls as the engine would have recorded them, built by hand."""

from __future__ import annotations

from meshlib.model.cluster import Cluster, ServiceRef
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Endpoint, Workload
from meshlib.model.request import RequestView
from meshlib.policy.events import Observer
from meshlib.policy.record import AttemptRecord, CallRecord
from meshlib.settings import Identity

WEBAPP = Identity(
    workload="webapp",
    namespace="istioinaction",
    labels={"app": "webapp", "version": "v1"},
    ip="10.0.0.9",
    pod="webapp-0",
)
CATALOG = Cluster(
    name="outbound|80||catalog.istioinaction.svc.cluster.local",
    discovery=Discovery.EDS,
    service=ServiceRef("catalog.istioinaction.svc.cluster.local", "catalog", "istioinaction"),
)
V1 = Endpoint("10.0.0.1", 3000, workload=Workload("catalog-v1", "istioinaction", "catalog", "v1", "Kubernetes"))
V2 = Endpoint("10.0.0.2", 3000, workload=Workload("catalog-v2", "istioinaction", "catalog", "v2", "Kubernetes"))

START = 100.0  # monotonic


def request(method="GET", target="/items?color=red&token=s3cret", host="catalog", headers=(), scheme="http", port=80):
    return RequestView(
        method=method, scheme=scheme, host=host, port=port, authority=host, target=target, headers=list(headers)
    )


def begin(view=None, *, protocol="http", cluster=CATALOG, route="default"):
    record = CallRecord(view or request(), START, protocol=protocol)
    record.cluster, record.cluster_name, record.route = cluster, cluster.name if cluster else "", route
    return record


def play(
    observer: Observer,
    record: CallRecord,
    *attempts: tuple[Endpoint, int | str],
    status: int | None = None,
    detail: str = "via_upstream",
    flags: int = 0,
    seconds: float = 0.125,
) -> list[dict[str, str]]:
    """Report a whole call as the engine does; each attempt is (endpoint, status or error).

    Returns the headers that each attempt was given.
    """
    observer.call_started(record)
    given = []
    for number, (endpoint, outcome) in enumerate(attempts, 1):
        attempt = AttemptRecord(number, endpoint, START + number * 0.01, None)
        record.attempts.append(attempt)
        given.append(dict(observer.attempt_started(record, attempt)))
        attempt.ended = attempt.started + 0.004
        if isinstance(outcome, int):
            attempt.status = outcome
        else:
            attempt.error = outcome
        observer.attempt_ended(record, attempt)
    record.status = status if status is not None else (record.attempts[-1].status if record.attempts else None)
    record.detail, record.flags = detail, flags
    record.ended = START + seconds
    observer.call_ended(record)
    return given
