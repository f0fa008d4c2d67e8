"""XdsClient: one thread that owns all xDS state, from the streams to the published snapshot."""

from __future__ import annotations

import heapq
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from tenacity.wait import wait_base

from meshlib.clock import Clock, system_clock
from meshlib.model.names import listener_name, search_list
from meshlib.model.snapshot import Snapshot, Style
from meshlib.xds.assembly import Assembly, Offered, pack
from meshlib.xds.authority import Authority, authorities_of, by_authority
from meshlib.xds.bootstrap_parts import Bootstrap
from meshlib.xds.channel import RECONNECT, Channel
from meshlib.xds.config_source import elsewhere
from meshlib.xds.faults import Fault, Note
from meshlib.xds.files import FileBroken, FileEvent, FileSource, FileUpdate
from meshlib.xds.idling import Idling
from meshlib.xds.inventory import Inventory, inventory, servers
from meshlib.xds.last_known_good import MAX_AGE, Contents, Kept, LastKnownGood, identity, without_keys
from meshlib.xds.note_log import NoteLog
from meshlib.xds.places import Places
from meshlib.xds.protocol import Missing, Removed, Unsubscribed
from meshlib.xds.stale import Stale
from meshlib.xds.stream import StreamData, StreamEnded, StreamEvent, StreamOpened
from meshlib.xds.type_urls import ALL_TYPE_URLS, CLUSTER, SECRET, SHORT, short

__all__ = ["RECONNECT", "Status", "XdsClient"]

_Result = TypeVar("_Result")
_log = logging.getLogger("meshlib.xds")

DOES_NOT_EXIST = 15.0  # seconds on a connected stream (gRFC A57; Envoy's initial_fetch_timeout)
# A server that replaces one cluster by another sends CDS before the RDS that names the new one.
# What it drops stays this long, so that calls in between do not meet a cluster that is gone.
DELETION_GRACE = 0.5
IDLE_AFTER = 300.0  # seconds without a call after which a host or cluster is not asked for any more
_STALE_AFTER = 0.5  # seconds from the start in which a server may answer before the last-known-good file is used
_WAITING_SAID = 100  # names that are spelt out in a status
_GIL_SLICE = 0.001  # seconds of work before other threads get a turn


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


class _Close:
    """Ends the thread."""


_Event = StreamEvent | FileEvent | Callable[[], None] | _Close


class XdsClient:
    """Keeps a snapshot current from management servers.

    Thread-safe. A failure of a server is never raised: it shows in :attr:`status`, the last
    good configuration stays in force, and the client connects again, or turns to the next server
    (gRFC A71).

    Args:
        bootstrap: the servers, the node and the style.
        publish: takes each new snapshot, on the client's thread. The first comes when everything
            that listeners refer to has been answered. With gRPC style, where listeners are asked
            for on demand, an empty one comes as soon as the server is connected, and one more,
            perhaps the same, whenever a demand is answered.
        clock: monotonic seconds.
        reconnect: how long to wait before the next attempt, by their number since the last response.
        does_not_exist: seconds after which an unanswered name does not exist, where its
            ConfigSource does not say (``initial_fetch_timeout``).
        deletion_grace: seconds a listener or cluster is kept after the server dropped it.
        on_demand: whether the endpoints of a cluster are asked for when a call first needs it.
        usage: returns the clusters used since it was last asked; None keeps all that were ever used.
        idle_after: seconds after which what is not used is not asked for any more.
        last_known_good: the file in which what is in force is kept, and from which it is taken when
            no server answers soon after the start; None for neither.
        last_known_good_age: seconds after which that file is too old.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        publish: Callable[[Snapshot], None],
        *,
        clock: Clock = system_clock,
        reconnect: wait_base = RECONNECT,
        does_not_exist: float = DOES_NOT_EXIST,
        deletion_grace: float = DELETION_GRACE,
        on_demand: bool = False,
        usage: Callable[[], Collection[str]] | None = None,
        idle_after: float = IDLE_AFTER,
        last_known_good: Path | None = None,
        last_known_good_age: float = MAX_AGE,
    ) -> None:
        # Read-only after construction.
        self.node: Any = bootstrap.node
        self._bootstrap = bootstrap
        self._publish_to = publish
        self.clock = clock
        self._does_not_exist = does_not_exist
        self._deletion_grace = deletion_grace
        # Any thread may put; the client's thread takes.
        self._inbox: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        # Replaced as a whole by the client's thread, read by any.
        self._status = Status(server=bootstrap.servers[0].address)
        self._answered: frozenset[str] = frozenset()
        # Guards starting and closing.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # Within the client's thread only.
        self._assembly = Assembly(
            bootstrap.style,
            bootstrap.listener_template if bootstrap.style is Style.GRPC else "",
            search=search_list(bootstrap.node.id),
            home=bootstrap.home,
            wildcards=bootstrap.wildcards | bootstrap.files.keys(),
            on_demand=on_demand,
            pause=self._pause,
            providers=bootstrap.certificate_providers,
        )
        self._places = Places(self._assembly, bootstrap.ads_clusters, self._inbox.put, self.settle)
        self._files = [FileSource(url, source, self._inbox.put) for url, source in bootstrap.files.items()]
        self._in_files: dict[str, frozenset[str]] = {}
        self._authorities: Mapping[str, Authority] = authorities_of(bootstrap, self, reconnect)
        self._idling = Idling(self._assembly, usage)
        self._idle_after = idle_after
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._leaving: dict[str, set[str]] = {url: set() for url in ALL_TYPE_URLS}
        self._published: Snapshot | None = None
        self._held_since = 0.0
        self._notes = NoteLog(_log)
        self._heard: set[str] = set()  # authorities that answered
        self._in_touch = 0.0  # wall-clock seconds when the server relied on was lost
        self._stale = Stale(self._assembly)
        self._good: LastKnownGood | None = None
        if last_known_good is not None:
            who = identity(self.node)
            self._good = LastKnownGood(
                last_known_good, last_known_good_age, who, self._contents, self._confirmed, self.later
            )

    @property
    def status(self) -> Status:
        """How the client fares now."""
        return self._status

    def start(self) -> None:
        """Start the thread and connect; returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="meshlib-xds", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the streams and the thread; idempotent."""
        self._inbox.put(_Close())
        with self._lock:
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(timeout=5.0)

    def demand(self, host: str, port: int) -> None:
        """Ask for ``host:port``, where listeners are asked for by name; returns at once."""
        if self._bootstrap.style is Style.GRPC:
            self._inbox.put(partial(self._demand, self._listener_name(host, port)))

    def wake(self, cluster: str) -> None:
        """Ask for a cluster that a call needs, and its endpoints; returns at once."""
        self._inbox.put(partial(self._wake, cluster))

    def answered(self, host: str, port: int) -> bool:
        """Tell whether what there is for ``host:port`` is in the snapshots published by now.

        True also when the server does not know it. Elsewhere than in gRPC style, where nothing is
        asked for by name, that is once a snapshot has been published.
        """
        if self._bootstrap.style is Style.GRPC:
            return self._listener_name(host, port) in self._answered
        return self._published is not None

    def _listener_name(self, host: str, port: int) -> str:
        return listener_name(self._bootstrap.listener_template, f"{host}:{port}")

    def notes(self) -> tuple[Note, ...]:
        """Return what of the resources in force is not, or only nearly, honoured."""
        return self.ask(lambda: self._assembly.notes)

    def inventory(self) -> Inventory:
        """Return what is known of every resource and server now; raises like :meth:`ask`."""
        return self.ask(
            lambda: replace(inventory(self._assembly, self.node, self._bootstrap), servers=servers(self._channels()))
        )

    def ask(self, question: Callable[[], _Result], timeout: float = 5.0) -> _Result:
        """Run ``question`` in the client's thread, where all state may be read, and return its answer.

        Raises:
            TimeoutError: there was none in ``timeout`` seconds: the client is not running, or busy.
        """
        thread = self._thread
        if thread is threading.current_thread():  # whoever is told of a new snapshot may ask
            return question()
        if thread is not None and not thread.is_alive():
            raise TimeoutError("the xDS client is closed")
        future: Future[_Result] = Future()

        def answer() -> None:
            try:
                future.set_result(question())
            except Exception as error:  # noqa: BLE001  belongs to whoever asked
                future.set_exception(error)

        self._inbox.put(answer)
        return future.result(timeout)

    # The rest runs in the client's thread.

    def _run(self) -> None:
        self._take_static()
        self.settle()
        for file in self._files:
            file.start()
        for authority in self._authorities.values():
            authority.start()
        if self._idle_after:
            self.later(self._idle_after, self._sweep)
        if self._good is not None:
            self._good.start()
            self.later(_STALE_AFTER, self._take_last_known_good)
        while True:
            try:
                event = self._inbox.get(timeout=self._until_next_timer())
            except queue.Empty:
                event = None
            if isinstance(event, _Close):
                break
            try:
                if event is not None:
                    self._handle(event)
                self._fire_timers()
            except Exception as error:  # noqa: BLE001  the thread must outlive whatever a server sends
                _log.exception("server=%s the client failed and connects anew", self._status.server)
                for channel in self._channels():
                    channel.fail(f"internal error: {type(error).__name__}: {error}")
        for channel in self._channels():
            channel.close()
        for file in self._files:
            file.close()
        self._places.close()
        if self._good is not None:
            self._good.finish()
        self._status = replace(self._status, connected=False)

    def _handle(self, event: StreamEvent | FileEvent | Callable[[], None]) -> None:
        if isinstance(event, StreamOpened | StreamData | StreamEnded):
            for channel in self._channels():
                if channel.expects(event.stream):
                    channel.handle(event)
                    break
        elif isinstance(event, FileUpdate):
            self._read_file(event)
        elif isinstance(event, FileBroken):
            _log.warning("file=%s cannot be used, what it held stays: %s", event.path, event.reason)
        else:
            event()

    def _read_file(self, event: FileUpdate) -> None:
        url = event.type_url
        resources = [packed.SerializeToString() for packed in event.resources]
        offered = self._assembly.offer(url, event.version, resources)
        for name in self._in_files.get(url, frozenset()).difference(offered.names):
            self._assembly.absent(url, name)
        self._assembly.complete(url)
        self._in_files[url] = frozenset(offered.names)
        if offered.faults:
            said = "; ".join(map(str, offered.faults))
            _log.warning("file=%s refused, last good kept: %s", event.path, said)
        self.settle()

    def _channels(self) -> list[Channel]:
        found = (channel for authority in self._authorities.values() for channel in authority.channels)
        return list(dict.fromkeys(found))

    def _take_static(self) -> None:
        for url, messages in self._bootstrap.static.items():
            if url not in self._bootstrap.wildcards:
                for name in messages:
                    self._assembly.dependencies.root(url, name)
            self._assembly.offer(url, "static", [pack(url, message) for message in messages.values()])

    def _demand(self, listener: str) -> None:
        self._idling.demanded(listener)
        if self._assembly.demand(listener):
            self.settle()

    def _wake(self, cluster: str) -> None:
        self._idling.woken(cluster)
        dependencies = self._assembly.dependencies
        if dependencies.on_demand:
            new = dependencies.wake(cluster)
        else:
            new = self._bootstrap.style is Style.GRPC and dependencies.root(CLUSTER, cluster)
        if new:
            self.settle()

    def _sweep(self) -> None:
        """Give up what was not used for a while."""
        self.later(self._idle_after / 2, self._sweep)
        if self._idling.sweep():
            self.settle()

    # What channels say; see ``channel.Owner``.

    def post(self, event: StreamEvent) -> None:
        """Take an event of a stream, from any thread."""
        self._inbox.put(event)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run ``action`` in this thread after ``seconds``."""
        self._timer_count += 1
        heapq.heappush(self._timers, (self.clock() + seconds, self._timer_count, action))

    def patience(self, type_url: str, name: str) -> float | None:
        """Return the seconds after which an unanswered name does not exist, None for never."""
        seconds = self._assembly.dependencies.patience.get((type_url, name), self._does_not_exist)
        return seconds or None

    def opened(self, channel: Channel) -> None:
        """A server is connected."""
        if channel is self._main.active:
            self._status = replace(self._status, connected=True, server=channel.server.address)

    def offered(self, channel: Channel, type_url: str, version: str, resources: Collection[bytes]) -> Offered:
        """Resources came."""
        for authority in self._authorities.values():
            if channel in authority.channels:
                self._heard.add(authority.name)
            if authority.answered(channel):
                self._status = replace(self._status, connected=True, server=channel.server.address)
        self._status = replace(self._status, last_error="")
        self._held_since = self.clock()
        offered = self._places.offer(type_url, version, resources)
        self._assembly.complete(type_url)
        if self._leaving[type_url]:
            self._leaving[type_url].difference_update(offered.names)
        if self._stale.taken:
            whole = type_url in self._bootstrap.wildcards and channel in self._main.channels
            only_stale = self._stale.answered(type_url, offered, whole=whole)
            if only_stale:
                self.gone(Removed(type_url, only_stale))
        self._notes.log([note for resource in offered.fresh for note in resource.notes(type_url)])
        return offered

    def gone(self, output: Removed | Missing | Unsubscribed) -> None:
        """Names are not there (any more)."""
        url, names = output.type_url, output.names
        if isinstance(output, Unsubscribed):
            self._assembly.dependencies.unsubscribed(url, names)
        elif isinstance(output, Removed):
            self._leaving[url] |= names
            self.later(self._deletion_grace, partial(self._remove, url, names))
        else:
            _log.info("type=%s does not exist: %s", short(url), ", ".join(sorted(names)))
            self._places.absent(url, names)

    def failed(self, channel: Channel, reason: str, delay: float) -> None:
        """A stream is over; another attempt follows."""
        address = channel.server.address
        _log.warning("server=%s disconnected reason=%r reconnect_in=%.1fs", address, reason, delay)
        self._status = replace(self._status, last_error=f"{address}: {reason}")
        if channel is self._main.active:
            if self._status.connected:
                self._in_touch = time.time()
            self._status = replace(self._status, connected=False)
        self._fall_back()

    @property
    def _main(self) -> Authority:
        return self._authorities[""]

    def _remove(self, type_url: str, names: frozenset[str]) -> None:
        gone = names & self._leaving[type_url]
        self._leaving[type_url] -= gone
        self._places.absent(type_url, gone)
        self.settle()

    def settle(self) -> None:
        """Ask for what is needed now, and publish when that is due."""
        self._take_names()
        whole = self._assembly.dependencies.whole
        if not whole and self._stale.taken:
            self._stale.fill(self._silent)
            self._take_names()
            whole = self._assembly.dependencies.whole
        if self._published is not None or (whole and (self._status.connected or self._stale.taken)):
            self._publish()
        if not whole:
            self._fall_back()
        waiting = () if whole else islice(self._assembly.dependencies.waiting(), _WAITING_SAID)
        self._status = replace(
            self._status,
            versions={SHORT[url]: version for url in SHORT if (version := self._main.version(url))},
            faults=self._assembly.faults,
            waiting=tuple(f"{short(url)} {name}" for url, name in waiting),
            stale=self._is_stale(),
        )

    def _take_names(self) -> None:
        added, gone = self._assembly.dependencies.take_names()
        for url in ALL_TYPE_URLS:
            if added[url] or gone[url]:
                self._subscribe(url, added[url], gone[url])

    def _subscribe(self, type_url: str, added: set[str], gone: set[str]) -> None:
        if type_url in self._bootstrap.files:
            return
        static = self._bootstrap.static.get(type_url, {}).keys()
        olds = by_authority(self._places.gone(type_url, gone - static))
        news = by_authority(self._places.added(type_url, added - static))
        for name, authority in self._authorities.items():
            new, old = news.pop(name, set()), olds.get(name, set())
            if new or old:
                authority.change(type_url, new, old)
        for stranger in chain.from_iterable(news.values()):
            _log.warning(
                "type=%s %s: its authority is not in the bootstrap: name its servers under `authorities` there",
                short(type_url),
                stranger,
            )
            self._assembly.absent(type_url, stranger)

    def _fall_back(self) -> None:
        for authority in self._authorities.values():
            authority.fall_back(self._assembly)

    def _publish(self) -> None:
        snapshot = self._assembly.snapshot()
        found, absent = self._assembly.settled()
        answered = found | absent
        if snapshot is self._published and answered == self._answered:
            return
        # Whoever waits looks when a snapshot is published. Absent names must be answered by then;
        # found ones are found in the snapshot itself, and must not be answered before it is there.
        self._answered |= absent
        self._published = snapshot
        # Before calls see it: who asks after one whether it went by stale configuration is told the truth.
        self._status = replace(self._status, stale=self._is_stale())
        self._publish_to(snapshot)
        self._answered = answered
        if self._good is not None:
            self._good.changed()

    # The last-known-good file.

    def _take_last_known_good(self) -> None:
        if self._good is None or self._heard:
            return
        found = self._good.read()
        if found is not None:
            held, age = found
            _log.warning(
                "server=%s has not answered: starting from the last known good configuration, %.0f s old",
                self._status.server,
                age,
            )
            self._stale.take(held)
            self._stale.fill(self._silent)
            self.settle()

    def _silent(self, name: str) -> bool:
        """Tell whether no server that answers for a name has ever answered."""
        return not any(authority.owns(name) for authority in map(self._authorities.__getitem__, self._heard))

    def _is_stale(self) -> bool:
        return self._stale.taken and ("" not in self._heard or self._stale.in_force)

    def _contents(self) -> Contents | None:
        """Return what is to be kept: nothing stale, for its age would be lost."""
        if self._published is None or self._status.stale:
            return None
        kept = (url for url in ALL_TYPE_URLS if url != SECRET and url not in self._bootstrap.files)
        return {url: self._kept(url) for url in kept}

    def _kept(self, type_url: str) -> dict[str, Kept]:
        static = self._bootstrap.static.get(type_url, {})
        return {
            entry.name: Kept(without_keys(used.raw), entry.version, entry.at)
            for entry, used in self._assembly.in_force(type_url)
            if entry.name not in static and elsewhere(entry.name) is None
        }

    def _confirmed(self) -> float:
        return time.time() if self._status.connected else self._in_touch

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - self.clock()) if self._timers else None

    def _fire_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self.clock():
            heapq.heappop(self._timers)[2]()

    def _pause(self) -> None:
        """Let other threads run, at least every millisecond of a large update."""
        now = self.clock()
        if now - self._held_since >= _GIL_SLICE:
            time.sleep(0)
            self._held_since = self.clock()
