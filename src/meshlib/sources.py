"""Where a mesh's configuration comes from: a folder, a control plane, a static bootstrap.

All three take one path: xDS resources, validated and decoded, compiled to one snapshot. This
module is where ``controlplane`` (which makes resources) and ``xds`` (which reads them) meet.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from meshlib.model.endpoint import Locality
from meshlib.model.names import search_list
from meshlib.model.snapshot import Home, Snapshot, Style
from meshlib.settings import Identity

if TYPE_CHECKING:
    from meshlib.controlplane.directory import Directory
    from meshlib.xds.assembly import Assembly
    from meshlib.xds.bootstrap import Bootstrap
    from meshlib.xds.client import XdsClient
    from meshlib.xds.faults import Note
    from meshlib.xds.files import FileEvent, FileSource
    from meshlib.xds.inventory import Inventory
    from meshlib.xds.named_files import Found, NamedFiles

Publish = Callable[[Snapshot], None]
Usage = Callable[[], Collection[str]]
_log = logging.getLogger("meshlib")


class DirectorySource:
    """The embedded control plane, in this process: a folder of YAML, translated and watched."""

    def __init__(self, path: str | os.PathLike[str], identity: Identity) -> None:
        self._path = path
        self._identity = identity
        self._directory: Directory | None = None
        self._noted: tuple[Note, ...] = ()  # replaced whole by the watching thread, read by any
        # The lock guards what is in the assembly, which the watching thread changes.
        self._lock = threading.Lock()
        self._assembly: Assembly | None = None
        self._applied = ""

    def start(self, publish: Publish, usage: Usage) -> None:  # noqa: ARG002  nothing is given up here
        """Read the folder and publish it at once; edits follow from the watching thread."""
        from meshlib.controlplane.directory import Directory
        from meshlib.controlplane.node import Node
        from meshlib.xds.assembly import Assembly
        from meshlib.xds.faults import Note
        from meshlib.xds.note_log import NoteLog

        self._directory = directory = Directory(self._path)
        identity = self._identity
        node = Node(
            id=identity.node_id(),
            namespace=identity.namespace,
            workload=identity.pod_name,
            ip=identity.ip,
            labels={"app": identity.app, **identity.labels},
        )
        note_log = NoteLog(_log)

        def apply() -> None:
            self._assembly = assembly = self._assembly or Assembly(
                Style.SIDECAR, search=search_list(node.id), home=Home(Locality(*identity.locality))
            )
            version = directory.version
            with self._lock:
                faults = assembly.apply(version, directory.resources(node).by_type)
            for fault in faults:
                _log.warning("configuration refused, the last good version stays: %s", fault)
            note_log.log(assembly.notes)
            self._noted = (*assembly.notes, *map(Note.refused, assembly.faults))
            publish(assembly.snapshot())
            self._applied = version

        directory.subscribe(apply)
        apply()  # before anybody watches: from here on `apply` runs in the watching thread alone
        directory.start()
        self._apply = apply

    def close(self) -> None:
        """Stop watching."""
        if self._directory is not None:
            self._directory.close()

    def describe(self) -> str:
        """Name the folder."""
        return f"the folder {os.fspath(self._path)}"

    def demand(self, host: str, port: int) -> bool:  # noqa: ARG002  a folder holds everything at once
        """Nothing is ever awaited."""
        return False

    def wake(self, cluster: str) -> None:
        """Every cluster is there."""

    def notes(self) -> tuple[Note, ...]:
        """Return what of the folder's resources is not honoured, or refused."""
        return self._noted

    def inventory(self) -> Inventory:
        """Return what is known of every resource now, under the node of a sidecar in this place."""
        from meshlib.xds.bootstrap_istio import node_of
        from meshlib.xds.inventory import Inventory, inventory

        node = node_of(self._identity)
        if self._assembly is None:
            return Inventory(node)
        with self._lock:
            return inventory(self._assembly, node)

    def forked(self) -> None:
        """Watch in this process too. What the parent knew of the folder is known here."""
        if self._directory is None:
            return
        self._lock = threading.Lock()
        self._assembly = None  # the parent's thread may have been changing it
        if self._applied != self._directory.version:
            self._apply()  # the parent had read a change, but not applied it yet
        self._directory.start()


class XdsSource:
    """A control plane over ADS.

    Args:
        bootstrap: the servers and the node.
        on_demand: whether the endpoints of a cluster are asked for when a call first needs it, and
            given up when none has used it for a while; False asks for all of them at once, and so
            does a server that may not answer for some of them alone.
        last_known_good: the file in which what is in force is kept for a start without a control plane.
        last_known_good_age: seconds after which that file is too old.

    Raises:
        ValueError: the age is not a positive number.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        *,
        on_demand: bool = True,
        last_known_good: str | os.PathLike[str] | None = None,
        last_known_good_age: float = 86_400.0,
    ) -> None:
        if not last_known_good_age > 0:
            raise ValueError(f"last_known_good_age must be a positive number of seconds, not {last_known_good_age!r}")
        self._bootstrap = bootstrap
        self._on_demand = on_demand and _answers_in_part(bootstrap)
        self._last_known_good = None if last_known_good is None else Path(last_known_good).absolute()
        self._last_known_good_age = last_known_good_age
        self._client: XdsClient | None = None
        self._publish: Publish | None = None
        self._usage: Usage = tuple
        self._demanded: set[tuple[str, int]] = set()
        self._woken: set[str] = set()

    def start(self, publish: Publish, usage: Usage) -> None:
        """Connect, in the client's own thread."""
        from meshlib.xds.client import XdsClient

        self._publish, self._usage = publish, usage
        self._client = client = XdsClient(
            self._bootstrap,
            publish,
            on_demand=self._on_demand,
            usage=usage,
            last_known_good=self._last_known_good,
            last_known_good_age=self._last_known_good_age,
        )
        # What the parent process used: a child's configuration must not shrink.
        for host, port in tuple(self._demanded):
            client.demand(host, port)
        for cluster in filter(None, (*self._woken, self._bootstrap.local_cluster)):
            client.wake(cluster)
        client.start()

    def close(self) -> None:
        """End the stream."""
        self._publish = None
        if self._client is not None:
            self._client.close()

    def describe(self) -> str:
        """Name the server and what went wrong last."""
        addresses = ", ".join(server.address for server in self._bootstrap.servers)
        error = self._client.status.last_error if self._client is not None else ""
        trouble = f"last error: {error}" if error else self._bootstrap.hint or "no error so far"
        return f"the control plane {addresses} ({trouble})"

    def demand(self, host: str, port: int) -> bool:
        """Ask for ``host:port``; True while the answer is out."""
        client = self._client
        if client is None:
            return False
        self._demanded.add((host, port))
        client.demand(host, port)
        return not client.answered(host, port)

    def wake(self, cluster: str) -> None:
        """Ask for a cluster that a call needs."""
        self._woken.add(cluster)
        if self._client is not None:
            self._client.wake(cluster)

    def notes(self) -> tuple[Note, ...]:
        """Return what of the received resources is not honoured, or refused."""
        from meshlib.xds.faults import Note

        if self._client is None:
            return self._bootstrap.notes
        return (*self._bootstrap.notes, *self._client.notes(), *map(Note.refused, self._client.status.faults))

    def is_stale(self) -> bool:
        """Tell whether what is in force is from the last-known-good file."""
        return self._client is not None and self._client.status.stale

    def inventory(self) -> Inventory:
        """Return what is known of every resource and server now; raises TimeoutError where the client is closed."""
        from meshlib.xds.inventory import Inventory

        return self._client.inventory() if self._client is not None else Inventory(self._bootstrap.node)

    def forked(self) -> None:
        """Connect in this process too: the client's thread is the parent's, and so is its stream."""
        if self._publish is not None:
            self.start(self._publish, self._usage)


def _answers_in_part(bootstrap: Bootstrap) -> bool:
    """Tell whether the servers answer for some endpoints without the others.

    In delta all do, and istiod in the state of the world, too. go-control-plane's snapshot cache
    does not: in ADS mode it keeps silent until a request names all that its snapshot holds.
    """
    istio = "ISTIO_VERSION" in bootstrap.node.metadata.fields
    return istio or all(server.delta is not False for server in bootstrap.servers)


class StaticSource:
    """``static_resources`` of an Envoy bootstrap, and the files that it and they name, watched."""

    def __init__(self, bootstrap: Bootstrap, listener: str = "") -> None:
        self._bootstrap = bootstrap
        self._listener = listener
        # Under the lock, for each file has a thread; one that publishes holds it, and may be asked what is known.
        self._lock = threading.RLock()
        self._files: list[FileSource] = []
        self._held: dict[str, list[bytes]] = {}
        self._named: NamedFiles | None = None
        self._asked: dict[str, set[str]] = {}  # names in files, by type
        self._found: dict[tuple[str, str], Found] = {}  # what their files hold, by type and path
        self._broken: dict[str, str] = {}
        self._noted: tuple[Note, ...] = ()
        self._assembly: Assembly | None = None

    def start(self, publish: Publish, usage: Usage) -> None:  # noqa: ARG002  nothing is given up here
        """Publish the bootstrap's resources, when its files are read; raises ``BootstrapError`` naming every fault."""
        from meshlib.errors import BootstrapError
        from meshlib.xds.assembly import Assembly
        from meshlib.xds.files import FileSource
        from meshlib.xds.named_files import NamedFiles
        from meshlib.xds.note_log import NoteLog

        bootstrap = self._bootstrap
        assembly = Assembly(
            Style.STATIC, listener=self._listener, home=bootstrap.home, providers=bootstrap.certificate_providers
        )
        faults = assembly.apply("static", self._bootstrap.static)
        if faults:
            lines = "\n  ".join(str(fault) for fault in faults)
            raise BootstrapError(f"static_resources cannot be used:\n  {lines}")
        self._assembly = assembly
        self._note(assembly)
        NoteLog(_log).log(assembly.notes)

        def post(action: Callable[[], None]) -> None:
            with self._lock:
                action()

        def take(event: FileEvent) -> None:
            with self._lock:
                self._take(event, assembly, publish)

        def take_named(found: Found) -> None:
            self._found[found.type_url, found.path] = found
            if found.broken:
                self._broken[found.path] = found.broken
                _log.warning("file=%s cannot be used, what it held stays: %s", found.path, found.broken)
            else:
                self._broken.pop(found.path, None)
            self._apply(found.version, found.path, assembly, publish)

        self._named = NamedFiles(post, take_named)
        with self._lock:
            self._follow(assembly)
            self._publish(assembly, publish)

        self._files = [FileSource(url, source, take) for url, source in self._bootstrap.files.items()]
        for file in self._files:
            file.start()

    def close(self) -> None:
        """Stop watching."""
        for file in self._files:
            file.close()
        if self._named is not None:
            self._named.close()

    def describe(self) -> str:
        """Name what it is, and which files cannot be used."""
        broken = "; ".join(self._broken.values())
        return "the resources of the bootstrap" + (f" (last error: {broken})" if broken else "")

    def demand(self, host: str, port: int) -> bool:  # noqa: ARG002  everything is there from the start
        """Nothing is ever awaited."""
        return False

    def wake(self, cluster: str) -> None:
        """Every cluster is there."""

    def notes(self) -> tuple[Note, ...]:
        """Return what of the resources is not honoured."""
        return self._noted

    def inventory(self) -> Inventory:
        """Return what is known of every resource now."""
        from meshlib.xds.inventory import Inventory, inventory

        if self._assembly is None:
            return Inventory(self._bootstrap.node)
        with self._lock:
            return inventory(self._assembly, self._bootstrap.node, self._bootstrap)

    def forked(self) -> None:
        """Drop the parent's watching threads."""
        self._files = []
        self._named = None
        self._assembly = None
        self._lock = threading.RLock()

    def _note(self, assembly: Assembly) -> None:
        from meshlib.xds.faults import Note

        self._noted = (*self._bootstrap.notes, *assembly.notes, *map(Note.refused, assembly.faults))

    def _take(self, event: FileEvent, assembly: Assembly, publish: Publish) -> None:
        from meshlib.xds.files import FileBroken

        if isinstance(event, FileBroken):
            self._broken[event.path] = event.reason
            _log.warning("file=%s cannot be used, what it held stays: %s", event.path, event.reason)
            return
        self._broken.pop(event.path, None)
        self._held[event.type_url] = [resource.SerializeToString() for resource in event.resources]
        self._apply(event.version, event.path, assembly, publish)

    def _apply(self, version: str, path: str, assembly: Assembly, publish: Publish) -> None:
        packed = {url: list(held) for url, held in self._held.items()}
        for (url, _), found in self._found.items():
            packed.setdefault(url, []).extend(found.resources)
        for fault in assembly.apply(version, self._bootstrap.static, packed):
            _log.warning("file=%s refused, the last good version stays: %s", path, fault)
        self._note(assembly)
        self._follow(assembly)
        self._publish(assembly, publish)

    def _follow(self, assembly: Assembly) -> None:
        """Ask files for the names that what is in force looks for there, and give up the others."""
        assert self._named is not None
        before, self._asked = self._asked, assembly.elsewhere()
        for url in before.keys() | self._asked.keys():
            self._named.drop(url, before.get(url, set()) - self._asked.get(url, set()))
            self._named.add(url, self._asked.get(url, set()) - before.get(url, set()))

    def _publish(self, assembly: Assembly, publish: Publish) -> None:
        """Publish once every file has been looked into."""
        wanted = {name for names in self._asked.values() for name in names}
        read = {name for found in self._found.values() for name in found.wanted}
        if len(self._held) == len(self._bootstrap.files) and wanted <= read:
            publish(assembly.snapshot())
