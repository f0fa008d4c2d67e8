"""What transports need of a mesh: the current snapshot, live state, clock, chance, observer."""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from meshlib.clock import Clock, Randomness
from meshlib.errors import MeshClosed, MeshNotReady
from meshlib.model.request import RequestView
from meshlib.model.snapshot import Snapshot, Style
from meshlib.policy.call import Call
from meshlib.policy.events import Observer
from meshlib.policy.record import CallRecord
from meshlib.policy.retrying import PlanFor
from meshlib.policy.routing import Choice, dead_end, near_miss
from meshlib.policy.safety import RetrySafety
from meshlib.policy.state import LiveSnapshot, MeshState
from meshlib.policy.trace import Trace
from meshlib.runtime.store import SnapshotStore
from meshlib.runtime.upkeep import Housekeeping
from meshlib.runtime.waking import wait_until

if TYPE_CHECKING:
    from meshlib.xds.faults import Note
    from meshlib.xds.inventory import Inventory

FIRST_CONFIGURATION_TIMEOUT = 15.0  # as Envoy's initial_fetch_timeout


class Source(Protocol):
    """Where snapshots come from: a folder, a control plane, a static bootstrap."""

    def start(self, publish: Callable[[Snapshot], None], usage: Callable[[], Collection[str]]) -> None:
        """Begin.

        Args:
            publish: called from one thread, the source's own or this one.
            usage: returns the clusters that calls used since it was last asked.
        """

    def close(self) -> None:
        """Stop; idempotent."""

    def describe(self) -> str:
        """Say where configuration is awaited from and what went wrong last."""
        ...

    def demand(self, host: str, port: int) -> bool:
        """Ask for ``host:port`` where the source serves by name; True while the answer is out."""
        ...

    def wake(self, cluster: str) -> None:
        """Ask for a cluster that the source gives only on demand; returns at once."""

    def notes(self) -> tuple[Note, ...]:
        """Return every field in force that is not honoured as received, and every refused one; from any thread."""
        ...

    def inventory(self) -> Inventory:
        """Return what is known of every resource now, from any thread; raises TimeoutError for no answer."""
        ...

    def forked(self) -> None:
        """Start over in a forked child: the parent's threads and streams are gone."""


class Forkable(Protocol):
    """Holds what does not survive a fork: connections, locks."""

    def forked(self) -> None:
        """Forget, unclosed, what belongs to the parent process."""


class Runtime:
    """One mesh at work. Thread-safe; shared by all clients and event loops; survives fork."""

    def __init__(
        self,
        source: Source,
        state: MeshState,
        observer: Observer,
        plan_for: PlanFor,
        *,
        name: str = "mesh",
        housekeeping: Housekeeping | None = None,
        safety: RetrySafety = RetrySafety.ENVOY,
        trace_decisions: float = 0.0,
    ) -> None:
        self.store = SnapshotStore()
        self.state = state
        self.observer = observer
        self.plan_for = plan_for
        self.name = name
        self._strict = safety is RetrySafety.STRICT
        self._trace_decisions = trace_decisions
        self._source = source
        self._housekeeping = housekeeping
        if housekeeping is not None:
            housekeeping.refresh = self.store.renew
        self._lock = threading.Lock()
        self._started = False
        self._closed = False
        self._transports: weakref.WeakSet[Forkable] = weakref.WeakSet()
        _forkable.add(self)

    @property
    def clock(self) -> Clock:
        """Monotonic seconds."""
        return self.state.clock

    @property
    def chance(self) -> Randomness:
        """Where chance comes from."""
        return self.state.chance

    def start(self) -> None:
        """Start the source once; raises ``MeshClosed`` after :meth:`close`."""
        if self._started and not self._closed:
            return
        with self._lock:
            if self._closed:
                raise MeshClosed(f"{self.name} is closed; make a new Mesh")
            if not self._started:
                self._source.start(self.publish, self.state.used)
                self._started = True

    def close(self) -> None:
        """Stop the source; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._source.close()
                if self._housekeeping is not None:
                    self._housekeeping.close()
        self.store.poke()

    def publish(self, snapshot: Snapshot) -> None:
        """Bind ``snapshot`` to live state and make it current; one thread at a time."""
        self.store.publish(self.state.bind(snapshot))

    def live(self, view: RequestView) -> LiveSnapshot | None:
        """Return the snapshot for this request, or None when it must be waited for."""
        if not self._started or self._closed:
            self.start()
        current = self.store.current
        if current is None or current.snapshot.style is not Style.GRPC:
            return current
        if current.snapshot.find_listener(view.host, view.port) is None and self._source.demand(view.host, view.port):
            return None
        return current

    def wait(self, view: RequestView | None, timeout: float, cluster: str = "") -> LiveSnapshot:
        """Block until there is a snapshot (for ``view``, with ``cluster`` in it).

        Raises:
            MeshNotReady: after ``timeout`` seconds.
        """
        self._ask(cluster)
        self.store.wait(lambda: self._closed or self._ready(view, cluster), timeout)
        return self._waited(view, timeout, cluster)

    async def await_(self, view: RequestView | None, timeout: float, cluster: str = "") -> LiveSnapshot:
        """Wait like :meth:`wait`, without blocking the event loop."""
        self._ask(cluster)
        await wait_until(lambda: self._closed or self._ready(view, cluster), self.store.watch, timeout)
        return self._waited(view, timeout, cluster)

    def _ask(self, cluster: str) -> None:
        self.start()
        if cluster:
            self._source.wake(cluster)

    def call(
        self,
        view: RequestView,
        live: LiveSnapshot,
        protocol: str = "http",
        *,
        deadline: float | None = None,
        races: bool = False,
        traced: bool = False,
    ) -> Call:
        """Return a call of ``view``, ready for ``policy.stack.execute``.

        Args:
            view: the request.
            live: the configuration.
            protocol: ``http`` or ``grpc``.
            deadline: clock second of the application's own time limit, None = no bound.
            races: whether the driver can make attempts side by side.
            traced: whether it asks for its decision trace; others are sampled.
        """
        state = self.state
        clock, chance = state.clock, state.chance
        record = CallRecord(view, clock(), protocol=protocol)
        if traced or (self._trace_decisions and chance.random() < self._trace_decisions):
            record.trace = Trace()
        return Call(
            view,
            live,
            record,
            clock,
            chance,
            self.observer,
            self.plan_for,
            self._hint,
            deadline=deadline,
            strict=self._strict,
            races=races,
            trace=record.trace,
        )

    def forked(self) -> None:
        """Start over in a forked child: threads and counts did not survive; the configuration did."""
        self._lock = threading.Lock()
        self.state.forked()
        if self._housekeeping is not None:
            self._housekeeping.forked()
        if isinstance(self.chance, random.Random):
            self.chance.seed()  # or all children would draw alike
        self.store.forked()
        current = self.store.current
        if current is not None:
            self.store.current = self.state.bind(current.snapshot)  # nothing new, so nobody is told
        for transport in list(self._transports):
            transport.forked()
        if self._started and not self._closed:
            self._source.forked()

    def on_fork(self, transport: Forkable) -> None:
        """Call ``transport.forked()`` in forked children, for as long as it lives."""
        self._transports.add(transport)

    def _ready(self, view: RequestView | None, cluster: str) -> bool:
        current = self.store.current
        if current is None or (cluster and cluster in current.snapshot.dormant):
            return False
        return view is None or self.live(view) is not None

    def _waited(self, view: RequestView | None, timeout: float, cluster: str) -> LiveSnapshot:
        if self._closed:
            raise MeshClosed(f"{self.name} is closed; make a new Mesh")
        current = self.store.current
        if cluster and current is not None and cluster in current.snapshot.dormant:
            where = self._source.describe()
            raise MeshNotReady(f"no answer for cluster {cluster!r} after {timeout:.3g}s from {where}")
        if current is None or (view is not None and self.live(view) is None):
            what = "no configuration" if current is None else f"no answer for {view.authority if view else ''}"
            raise MeshNotReady(f"{what} after {timeout:.3g}s from {self._source.describe()}")
        return current

    def _hint(self, view: RequestView, choice: Choice) -> str:
        """Say what of the request nothing takes, and what comes near."""
        if choice.destination is None:
            return f"no listener takes {view.host}:{view.port}; which services and ports does {self.name} define?"
        if choice.virtual_host is not None:
            return f"virtual host {choice.virtual_host.name!r} has no route for {view.method} {view.path}"
        if choice.destination.routes is None:
            return dead_end(view, choice.destination)
        table = choice.destination.routes.name
        return f"no virtual host for {view.authority!r} in route table {table!r}{near_miss(view, choice)}"


_forkable: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for runtime in list(_forkable):
        runtime.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
