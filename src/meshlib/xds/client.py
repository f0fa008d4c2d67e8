"""XdsClient: one thread that owns all xDS state, from the stream to the published snapshot."""

from __future__ import annotations

import heapq
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError
from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base, wait_fixed, wait_random_exponential

from meshlib.clock import Clock, system_clock
from meshlib.model.snapshot import Snapshot, Style
from meshlib.xds import diagnosis, forks
from meshlib.xds.ads import AdsProtocol, Missing, Output, Removed, Request, StartTimer
from meshlib.xds.assembly import Assembly
from meshlib.xds.bootstrap_parts import Bootstrap
from meshlib.xds.faults import Fault, Note
from meshlib.xds.files import FileBroken, FileEvent, FileSource, FileUpdate
from meshlib.xds.note_log import NoteLog
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES, Received
from meshlib.xds.stream import SOTW, AdsStream, StreamData, StreamEnded, StreamEvent, StreamOpened
from meshlib.xds.type_urls import SHORT, TYPE_URLS, short

_log = logging.getLogger("meshlib.xds")

# Reconnect after 1 s + uniform(0, min(30 s, 2^n s)); a response starts the count anew.
RECONNECT = wait_fixed(1) + wait_random_exponential(multiplier=1, max=30)
DOES_NOT_EXIST = 15.0  # seconds on a connected stream (gRFC A57)
# A server that replaces one cluster by another sends CDS before the RDS that names the new one.
# What it drops stays this long, so that calls in between do not meet a cluster that is gone.
DELETION_GRACE = 0.5
_FAULTS_SAID = 20  # faults spelt out in one NACK and one log record; the rest is counted
_INVALID_ARGUMENT = 3  # google.rpc.Code, as other clients NACK
_GIL_SLICE = 0.001  # seconds of decoding before other threads get a turn


@dataclass(frozen=True, slots=True)
class Status:
    """How the client fares; a value, replaced as a whole.

    Attributes:
        connected: whether a stream is open.
        server: the server's address.
        last_error: "address: reason" of the last failure, empty again once the server answers.
        versions: the last version accepted, by LDS, RDS, CDS, EDS.
        faults: what is wrong with resources that were refused; their last good values are in force.
        notes: what of the resources in force is not, or only nearly, honoured.
        waiting: resources asked for and not answered yet ("EDS outbound|80||catalog").
    """

    connected: bool = False
    server: str = ""
    last_error: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    notes: tuple[Note, ...] = ()
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Demand:
    listener: str


class _Close:
    """Ends the thread."""


_Event = StreamEvent | FileEvent | _Demand | _Close


class XdsClient:
    """Keeps a snapshot current from a management server.

    Thread-safe. A failure of the server is never raised: it shows in :attr:`status`, the last
    good configuration stays in force, and the client connects again.

    Args:
        bootstrap: the server, the node and the style.
        publish: takes each new snapshot, on the client's thread. The first comes when everything
            that listeners refer to has been answered. With gRPC style, where listeners are asked
            for on demand, an empty one comes as soon as the server is connected, and one more,
            perhaps the same, whenever a demand is answered.
        clock: monotonic seconds.
        reconnect: how long to wait before the next attempt, by their number since the last response.
        does_not_exist: seconds after which an unanswered name does not exist.
        deletion_grace: seconds a listener or cluster is kept after the server dropped it.
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
    ) -> None:
        # Read-only after construction.
        self._bootstrap = bootstrap
        self._publish_to = publish
        self._clock = clock
        self._reconnect = reconnect
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
            bootstrap.style, wildcards=bootstrap.wildcards | bootstrap.files.keys(), pause=self._pause
        )
        self._files = [FileSource(url, source, self._inbox.put) for url, source in bootstrap.files.items()]
        self._in_files: dict[str, frozenset[str]] = {}
        self._protocol = AdsProtocol()
        self._stream: AdsStream | None = None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._failures = 0
        self._leaving: dict[str, set[str]] = {url: set() for url in TYPE_URLS}
        self._published: Snapshot | None = None
        self._held_since = 0.0
        self._notes = NoteLog(_log)

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
        """End the stream and the thread; idempotent."""
        self._inbox.put(_Close())
        with self._lock:
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(timeout=5.0)

    def demand(self, host: str, port: int) -> None:
        """Ask for ``host:port``, where listeners are asked for by name; returns at once."""
        if self._bootstrap.style is Style.GRPC:
            self._inbox.put(_Demand(f"{host}:{port}"))

    def answered(self, host: str, port: int) -> bool:
        """Tell whether what there is for ``host:port`` is in the snapshots published by now.

        True also when the server does not know it. Elsewhere than in gRPC style, where nothing is
        asked for by name, that is once a snapshot has been published.
        """
        if self._bootstrap.style is Style.GRPC:
            return f"{host}:{port}" in self._answered
        return self._published is not None

    # The rest runs in the client's thread.

    def _run(self) -> None:
        for url, messages in self._bootstrap.static.items():
            received = (Received(name, m.SerializeToString(deterministic=True), m) for name, m in messages.items())
            self._assembly.offer(url, "static", received)
        self._settle()
        for file in self._files:
            file.start()
        self._later(0.0, self._connect)
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
                self._disconnected(f"internal error: {type(error).__name__}: {error}")
        self._drop_stream()
        for file in self._files:
            file.close()
        self._status = replace(self._status, connected=False)

    def _handle(self, event: _Event) -> None:
        if isinstance(event, _Demand):
            if self._assembly.demand(event.listener):
                self._settle()
        elif isinstance(event, FileBroken):
            _log.warning("file=%s cannot be used, what it held stays: %s", event.path, event.reason)
        elif isinstance(event, FileUpdate):
            self._read_file(event)
        elif isinstance(event, StreamOpened | StreamData | StreamEnded) and event.stream is self._stream:
            if isinstance(event, StreamOpened):
                self._opened()
            elif isinstance(event, StreamData):
                self._received(event.data)
                event.stream.resume()
            elif event.fork:
                self._reopen()
            else:
                advice = diagnosis.advice(event.code, self._bootstrap.servers[0], self._bootstrap.node)
                self._disconnected(f"{event.reason}; {advice}" if advice else event.reason)

    def _read_file(self, event: FileUpdate) -> None:
        url = event.type_url
        offered = self._assembly.offer(url, event.version, map(RESOURCE_TYPES[url].read, event.resources))
        names = frozenset(offered.names)
        self._assembly.remove(url, self._in_files.get(url, frozenset()) - names)
        self._assembly.complete(url)
        self._in_files[url] = names
        if offered.faults:
            _log.warning("file=%s refused, last good kept: %s", event.path, "; ".join(_said(offered.faults)))
        self._settle()

    def _connect(self) -> None:
        if self._stream is None:
            self._stream = AdsStream(self._bootstrap.servers[0], SOTW, self._inbox.put)
            self._stream.start()

    def _opened(self) -> None:
        _log.info("server=%s connected", self._status.server)
        self._status = replace(self._status, connected=True)
        self._perform(self._protocol.opened())
        self._settle()

    def _disconnected(self, reason: str) -> None:
        self._drop_stream()
        self._failures += 1
        error = f"{self._status.server}: {reason}"
        delay = self._reconnect(_attempt(self._failures))
        self._status = replace(self._status, connected=False, last_error=error)
        _log.warning("server=%s disconnected reason=%r reconnect_in=%.1fs", self._status.server, reason, delay)
        self._later(delay, self._connect)

    def _reopen(self) -> None:
        """The stream ended for a fork of this process."""
        self._drop_stream()
        self._status = replace(self._status, connected=False)
        self._later(forks.REOPEN, self._connect)

    def _drop_stream(self) -> None:
        self._protocol.closed()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _received(self, data: bytes) -> None:
        try:
            response = discovery_pb2.DiscoveryResponse.FromString(data)
        except DecodeError:
            self._disconnected("answered something that is no DiscoveryResponse")
            return
        url, version = response.type_url, response.version_info
        self._failures = 0
        self._status = replace(self._status, last_error="")
        if not self._protocol.expects(url):
            _log.warning("server=%s type=%s answered without being asked; ignored", self._status.server, short(url))
            return
        self._held_since = self._clock()
        offered = self._assembly.offer(url, version, map(RESOURCE_TYPES[url].read, response.resources))
        self._assembly.complete(url)
        self._leaving[url].difference_update(offered.names)
        said = _said(offered.faults)
        if said:
            _log.warning("type=%s version=%s refused, last good kept: %s", short(url), version, "; ".join(said))
        self._perform(
            self._protocol.response(url, version, response.nonce, offered.names, said, complete=offered.complete)
        )
        self._settle()

    def _perform(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, Request):
                if self._stream is not None:
                    self._stream.send(_encode(output, self._bootstrap.node))
            elif isinstance(output, StartTimer):
                self._later(self._does_not_exist, partial(self._timed_out, output))
            elif isinstance(output, Removed):
                self._leaving[output.type_url] |= output.names
                self._later(self._deletion_grace, partial(self._remove, output))
            elif isinstance(output, Missing):
                _log.info("type=%s does not exist: %s", short(output.type_url), ", ".join(sorted(output.names)))
                self._assembly.missing(output.type_url, output.names)

    def _timed_out(self, timer: StartTimer) -> None:
        self._perform(self._protocol.timeout(timer))
        self._settle()

    def _remove(self, removed: Removed) -> None:
        gone = removed.names & self._leaving[removed.type_url]
        self._leaving[removed.type_url] -= gone
        self._assembly.remove(removed.type_url, gone)
        self._settle()

    def _settle(self) -> None:
        """Ask for what is referred to now, and publish when that is due."""
        closure = self._assembly.resolve()
        for url in (url for url in TYPE_URLS if url not in self._bootstrap.files):
            self._perform(self._protocol.want(url, closure.wanted[url]))
        if self._published is not None or (closure.whole and self._status.connected):
            self._publish()
        self._status = replace(
            self._status,
            versions={SHORT[url]: version for url in TYPE_URLS if (version := self._protocol.version(url))},
            faults=self._assembly.faults,
            notes=self._assembly.notes,
            waiting=tuple(f"{short(url)} {name}" for url, name in closure.waiting),
        )
        self._notes.log(self._status.notes)

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
        self._publish_to(snapshot)
        self._answered = answered

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (self._clock() + seconds, self._timer_count, action))

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - self._clock()) if self._timers else None

    def _fire_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self._clock():
            heapq.heappop(self._timers)[2]()

    def _pause(self) -> None:
        """Let other threads run, at least every millisecond of a large update."""
        now = self._clock()
        if now - self._held_since >= _GIL_SLICE:
            time.sleep(0)
            self._held_since = self._clock()


def _attempt(number: int) -> RetryCallState:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = number
    return state


def _said(faults: tuple[Fault, ...]) -> list[str]:
    said = [str(fault) for fault in faults[:_FAULTS_SAID]]
    rest = len(faults) - len(said)
    return [*said, f"and {rest} more"] if rest else said


def _encode(request: Request, node: Any) -> bytes:
    message = discovery_pb2.DiscoveryRequest(
        version_info=request.version,
        node=node if request.with_node else None,
        resource_names=request.names,
        type_url=request.type_url,
        response_nonce=request.nonce,
    )
    if request.error:
        message.error_detail.code = _INVALID_ARGUMENT
        message.error_detail.message = request.error
    encoded: bytes = message.SerializeToString()
    return encoded
