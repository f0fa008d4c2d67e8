"""A folder of Istio and Kubernetes YAML: read, watched, and translated for whoever asks."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from meshlib import watch
from meshlib.controlplane.documents import Documents, Memory, read
from meshlib.controlplane.faults import ERROR, Fault
from meshlib.controlplane.folder import NO_FILES, Listing, read_folder
from meshlib.controlplane.node import Node
from meshlib.controlplane.observed import ObservedNode
from meshlib.controlplane.options import DEFAULTS, MeshOptions
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.translate import faults_of, translate
from meshlib.errors import ConfigError

logger = logging.getLogger("meshlib.controlplane")

# Editors truncate or remove a file before they write it anew: what is gone is believed to be
# gone after this many seconds, and looked at this often until then.
_GRACE = 0.1
_GRACE_STEP = 0.02

# What is kept for later: of so many nodes whose resources they are, and of so many views the resources.
# Short-lived clients come with ever new ids.
_MAX_NODES = 10_000
_MAX_VIEWS = 256


@dataclass(frozen=True, slots=True)
class _State:
    """The folder at one moment. Replaced whole: readers, and a forked child, never see a half.

    Attributes:
        version: as istiod's: the time of the change, and a counter.
        in_force: file -> content, of which ``documents`` were made.
        documents: what is in force.
        found: file -> content, as last seen.
        listing_faults: of the files as such.
        faults: everything wrong with what was found, in force or not.
        held: files whose last good version is in force instead of what was found.
        faulty: files in force in spite of errors, never having been without.
        dangling: files in force that refer to what does not exist.
        translated: node id -> the node and its resources; filled on demand, under the lock.
        views: what was translated, with the node it was translated for; likewise.
    """

    version: str
    in_force: Mapping[str, bytes]
    documents: Documents
    found: Mapping[str, bytes] = field(default_factory=dict)
    listing_faults: tuple[Fault, ...] = ()
    faults: tuple[Fault, ...] = ()
    held: frozenset[str] = frozenset()
    faulty: frozenset[str] = frozenset()
    dangling: frozenset[str] = frozenset()
    translated: dict[str, tuple[Node, Resources]] = field(default_factory=dict)
    views: list[tuple[ObservedNode, Resources]] = field(default_factory=list)


class Directory:
    """What a folder of YAML says, kept up to date.

    Bad configuration never replaces good configuration: a file that has an error keeps its last
    good version in force until it is mended, and the other files apply; so does one that comes to
    refer to a host, subset, port or gateway that does not exist, until that is mended or there. At
    the first reading a faulty document is left out, one that only refers to nothing applies as in
    Istio, and so do all others. A file that is emptied or removed takes effect after 100 ms, for
    editors do that before they write.

    Thread-safe. Faults are logged at WARNING once per change, by ``meshlib.controlplane``.

    A forked child keeps what was read and is not watching; :meth:`start` makes it watch again, and
    the first look takes up what changed in between.

    Args:
        path: the folder; read at first use, not here.
        options: mesh-wide settings.
    """

    def __init__(self, path: str | os.PathLike[str], options: MeshOptions = DEFAULTS) -> None:
        self.path = Path(path)
        self.options = options
        self._state: _State | None = None
        self._memory = Memory()
        self._callbacks: dict[object, Callable[[], None]] = {}
        # Owned by the thread that reads: the caller's at first, then the watching thread.
        self._vanishing: dict[str, float] = {}
        self._counter = 0
        self._process = 0
        self._forked()
        _directories.add(self)

    def _forked(self) -> None:
        """Make what a child cannot inherit: locks that another thread may hold, and the thread."""
        if self._process == os.getpid():
            return  # a subscriber's handler came first, and started us
        self._process = os.getpid()
        self._loading = threading.Lock()
        self._translating = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def version(self) -> str:
        """Of what is in force: another one after every change."""
        return self._loaded().version

    @property
    def documents(self) -> Documents:
        """What is in force."""
        return self._loaded().documents

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Everything wrong with the files as they are, in force or not."""
        return self._loaded().faults

    @property
    def size(self) -> int:
        """How many documents are in force."""
        return sum(1 for _ in _every(self._loaded().documents))

    def resources(self, node: Node) -> Resources:
        """Return what ``node`` is served now; the same object until something changes, and for nodes alike."""
        state = self._loaded()
        with self._translating:
            known = state.translated.get(node.id)
            if known is not None and known[0] == node:
                return known[1]
            resources = self._view(state, node)
            while len(state.translated) >= _MAX_NODES:
                del state.translated[next(iter(state.translated))]
            state.translated[node.id] = (node, resources)
            return resources

    def _view(self, state: _State, node: Node) -> Resources:
        for observed, resources in state.views:
            if observed.fits(node):
                return resources
        observed = ObservedNode(node)
        resources, _ = translate(state.documents, observed, self.options)
        del state.views[: len(state.views) - _MAX_VIEWS + 1]
        state.views.append((observed, resources))
        return resources

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called in the watching thread after every change; return how to end that."""
        key = object()
        self._callbacks[key] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(key, None)

        return unsubscribe

    def start(self) -> None:
        """Read the folder, unless that was done, and watch it from now on. Idempotent.

        Raises:
            ConfigError: there is no such folder, or it cannot be read.
        """
        self._forked()
        self._loaded()
        with self._loading:
            if self._thread is None or not self._thread.is_alive():
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._watch, args=(self._stop,), name="meshlib-directory", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Stop watching; what was read stays readable. Idempotent."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _loaded(self) -> _State:
        if self._state is None:
            with self._loading:
                if self._state is None:
                    listing = read_folder(self.path)
                    state = self._state = self._next(None, listing.files, listing.faults)
                    _tell_faults(state, None)
        assert self._state is not None
        return self._state

    def _watch(self, stop: threading.Event) -> None:
        for _ in watch.changes(self.path, stop):
            self._look()
            while self._vanishing and not stop.wait(_GRACE_STEP):
                self._look()

    def _look(self) -> None:
        """Compare the folder with what is known of it, and publish what is new."""
        started = time.monotonic()
        before = self._loaded()
        listing = self._list()
        found = self._bridge(before.found, listing)
        if found == before.found and listing.faults == before.listing_faults:
            return
        try:
            self._state = after = self._next(before, found, listing.faults)
        except Exception:
            # Not the user's fault but ours: a file that no reader of ours should trip over.
            logger.exception("%s could not be applied; what was in force before stays", self.path)
            return
        if after.version != before.version:
            self._publish()
            _tell_changes(before, after, time.monotonic() - started)
        _tell_faults(after, before)

    def _list(self) -> Listing:
        try:
            return read_folder(self.path)
        except ConfigError as error:
            return Listing({}, (Fault(ERROR, f"{error} (what it held stays in force)", "."),))

    def _bridge(self, known: Mapping[str, bytes], listing: Listing) -> dict[str, bytes]:
        """Return the files with those put back that are unreadable, or gone for a moment only."""
        found = dict(listing.files)
        now = time.monotonic()
        renamed = {found[name] for name in found.keys() - known.keys()}
        for name, content in known.items():
            if found.get(name, b"").strip() or not content.strip():
                self._vanishing.pop(name, None)
            elif listing.unread(name):
                self._vanishing.pop(name, None)
                found[name] = content
            elif content not in renamed and now < self._vanishing.setdefault(name, now + _GRACE):
                found[name] = content
            else:
                self._vanishing.pop(name, None)
        return found

    def _next(self, before: _State | None, found: Mapping[str, bytes], listing_faults: tuple[Fault, ...]) -> _State:
        """Return the state that ``found`` leads to."""
        in_force, documents, faults, held = self._in_force(before, found)
        current = tuple(fault for fault in faults if fault.file not in held)
        refused = (fault for faults in held.values() for fault in faults)
        empty = () if found or listing_faults else (NO_FILES,)
        state = before
        if state is None or in_force != state.in_force:
            self._counter += 1
            version = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}/{self._counter}"
            state = _State(version, in_force, documents)
        return replace(
            state,
            found=found,
            listing_faults=listing_faults,
            faults=(*listing_faults, *empty, *refused, *current),
            held=frozenset(held),
            faulty=frozenset(fault.file for fault in current if fault.severity is ERROR and not fault.applies),
            dangling=frozenset(fault.file for fault in current if fault.severity is ERROR and fault.applies),
        )

    def _in_force(
        self, before: _State | None, found: Mapping[str, bytes]
    ) -> tuple[Mapping[str, bytes], Documents, tuple[Fault, ...], Mapping[str, list[Fault]]]:
        """Choose every file as found, or its last good version, or none where there never was one.

        Returns:
            The content chosen, its documents and faults, and the faults of each file held back.
        """
        held: dict[str, list[Fault]] = {}
        while True:
            good = {name: before.in_force[name] for name in held if before is not None and name in before.in_force}
            content = {name: text for name, text in found.items() if name not in held} | good
            documents, faults = read(content, memory=self._memory)
            references = faults_of(documents, self.options)
            faults = (*faults, *references)
            refused = set() if before is None else _refused(before, found, documents, faults) - held.keys()
            if not refused:
                return content, documents, faults, held
            held |= {name: [fault for fault in faults if fault.file == name] for name in refused}

    def _publish(self) -> None:
        for callback in list(self._callbacks.values()):
            try:
                callback()
            except Exception:
                logger.exception("a subscriber of %s failed", self.path)


def _refused(before: _State, found: Mapping[str, bytes], documents: Documents, faults: Iterable[Fault]) -> set[str]:
    """Name the files whose content as found is worse than what is in force."""
    errors = [fault for fault in faults if fault.severity is ERROR]
    broken = {fault.file for fault in errors if not fault.applies}
    worse = {name for name in broken if name in found and _worse(before, name, found[name], documents)}
    if worse:
        return worse  # what they hold may be what others refer to, so these first
    known = set(before.in_force.values())  # a file that is unchanged, or was only renamed, stays
    return {
        fault.file
        for fault in errors
        if fault.applies and fault.file not in before.dangling and found.get(fault.file) not in known
    }


def _worse(before: _State, name: str, content: bytes, documents: Documents) -> bool:
    """Tell whether the faulty ``content`` of a file is worse than what is in force.

    It is worse than a version without errors. Where there never was one it is still worse if a
    document in force would be lost.
    """
    if before.in_force.get(name, content) == content:
        return False
    if name not in before.faulty:
        return True
    kept = {str(document.at.origin) for document in _every(documents)}
    return any(
        document.at.origin.file == name and str(document.at.origin) not in kept for document in _every(before.documents)
    )


def _every(documents: Documents) -> Iterator[Any]:
    for kind in fields(documents):
        yield from getattr(documents, kind.name)


def _tell_changes(before: _State, after: _State, seconds: float) -> None:
    for name in sorted(before.in_force.keys() | after.in_force.keys()):
        if before.in_force.get(name) == after.in_force.get(name):
            continue
        verb, state = ("applied", after) if after.in_force.get(name, b"").strip() else ("removed", before)
        logger.info("%s %s%s in %.0f ms", verb, name, _summary(state.documents, name), seconds * 1000)


def _summary(documents: Documents, name: str) -> str:
    """Return `` (VirtualService istioinaction/catalog and 2 more)``."""
    origins = [str(document.at.origin) for document in _every(documents) if document.at.origin.file == name]
    if not origins:
        return ""
    more = f" and {len(origins) - 1} more" if len(origins) > 1 else ""
    return f" ({origins[0]}{more})"


def _tell_faults(state: _State, before: _State | None) -> None:
    told: Iterable[Fault] = before.faults if before else ()
    known = {fault for fault in told if before and before.found.get(fault.file) == state.found.get(fault.file)}
    for fault in state.faults:
        if fault not in known:
            logger.warning("%s%s", fault, _kept(state, fault))


def _kept(state: _State, fault: Fault) -> str:
    """Say what is in force instead of a file at fault."""
    held = fault.file in state.held
    if state.in_force.get(fault.file, b"").strip() and (held or fault in state.listing_faults):
        return " (its last good version stays in force)"
    return " (the file is not applied until that is mended)" if held else ""


_directories: weakref.WeakSet[Directory] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for directory in list(_directories):
        directory._forked()


with contextlib.suppress(AttributeError):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
