"""The last-known-good file: what is in force, kept on disk for a start without a control plane.

The file is a line of magic, the SHA-256 of the rest in hexadecimal, and a ``Saved`` message of
:mod:`~meshlib.xds.wire`: for which node, when a control plane last stood by it, and the resources by
type, each the bytes of the ``Any`` it came in. A file that is damaged, too old or for another node
is refused as a whole. What it holds is validated as if a server had sent it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.xds import wire
from meshlib.xds.type_urls import ALL_TYPE_URLS

_log = logging.getLogger("meshlib.xds")

_MAGIC = b"meshlib last known good 1\n"
_HEAD = len(_MAGIC) + 64 + 1
_WRITE_AFTER = 1.0  # seconds from a change to the write, so that there is at most one a second
_LOOK_EVERY = 60.0  # seconds after which a failed write is tried again, and an old file's time renewed
MAX_AGE = 86_400.0  # seconds


@dataclass(frozen=True, slots=True)
class Kept:
    """One resource in the file.

    Attributes:
        raw: the bytes of the ``Any`` it came in.
        version: of the response it came with.
        at: wall-clock seconds when it came.
    """

    raw: bytes
    version: str
    at: float


Contents = Mapping[str, Mapping[str, Kept]]
"""Resources by type URL and name."""


class Refused(Exception):
    """A file that is not to be used; says why."""


def identity(node: Any) -> str:
    """Return for whom a file is: the node's id and cluster, without the address in Istio's ids.

    A pod that is restarted may have another address and gets the same configuration.
    """
    parts = node.id.split("~")
    if len(parts) == 4:
        del parts[1]
    return f"{'~'.join(parts)} {node.cluster}".rstrip()


def without_keys(raw: bytes) -> bytes:
    """Return a resource to be kept: private keys that are written in it are blotted out.

    A mesh that starts from the file therefore makes no connection that needs one, until a server answers.
    """
    if b"PRIVATE KEY-----" not in raw:
        return raw
    from meshlib.xds.shown import shown  # it brings in more of Envoy's messages than most processes need

    kept: bytes = shown(raw).SerializeToString()
    return kept


def encode(node: str, at: float, contents: Contents) -> bytes:
    """Return the bytes of a file.

    Args:
        node: see :func:`identity`.
        at: wall-clock seconds when a control plane last stood by it.
        contents: what it is to hold.
    """
    saved = wire.Saved(node=node, at=at)
    for url, by_name in contents.items():
        kind = wire.SavedType(type_url=url)
        kind.resources.extend(
            wire.SavedResource(name=name, version=kept.version, at=kept.at, resource=kept.raw).SerializeToString()
            for name, kept in by_name.items()
        )
        saved.types.append(kind.SerializeToString())
    body: bytes = saved.SerializeToString()
    return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(data: bytes, node: str, now: float, max_age: float) -> tuple[Contents, float]:
    """Return what a file holds, and its age in seconds.

    Raises:
        Refused: it is not whole, too old, from the future or for another node.
    """
    if not data.startswith(_MAGIC):
        raise Refused("it is no last-known-good file of this version of meshlib")
    digest, body = data[len(_MAGIC) : _HEAD - 1], data[_HEAD:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise Refused("it is damaged or cut off: its SHA-256 is another")
    try:
        saved = wire.Saved.FromString(body)
        contents = {kind.type_url: _resources(kind) for kind in map(wire.SavedType.FromString, saved.types)}
    except DecodeError as error:
        raise Refused(f"it does not parse: {error}") from error
    if saved.node != node:
        raise Refused(f"it is for the node {saved.node!r}, and this is {node!r}")
    age = now - saved.at
    if age > max_age:
        raise Refused(f"it is {age:.0f} s old, and last_known_good_age is {max_age:.0f} s")
    if age < -max_age:
        raise Refused(f"it is from {-age:.0f} s in the future: is the clock right?")
    return {url: contents[url] for url in ALL_TYPE_URLS if url in contents}, max(0.0, age)


def _resources(kind: Any) -> dict[str, Kept]:
    found = map(wire.SavedResource.FromString, kind.resources)
    return {one.name: Kept(one.resource, one.version, one.at) for one in found}


def _read(path: Path) -> bytes:
    # Not blocking, for somebody may have put a pipe there.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise Refused("it is no regular file")
        if mode & stat.S_IWOTH:
            raise Refused("everybody may write it: chmod 0600")
        return file.read()


def _write(path: Path, data: bytes) -> None:
    """Replace a file, whole or not at all, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class LastKnownGood:
    """One file. The client's thread owns it; a short-lived thread of its own writes.

    Args:
        path: the file; its folder must be there.
        max_age: seconds after which it is refused.
        node: whom it is for; see :func:`identity`.
        contents: returns what is in force, None while that is not to be kept.
        confirmed: returns the wall-clock seconds when a control plane last stood by it.
        later: runs a function in the client's thread after so many seconds.
    """

    def __init__(
        self,
        path: Path,
        max_age: float,
        node: str,
        contents: Callable[[], Contents | None],
        confirmed: Callable[[], float],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._path = path
        self._max_age = max_age
        self._node = node
        self._contents = contents
        self._confirmed = confirmed
        self._later = later
        self._due = False
        self._writer: threading.Thread | None = None
        self._failed = False  # whether a failure was said
        # Replaced as a whole by the writer, and looked at only when that is done.
        self._written: Contents = {}
        self._written_at = 0.0

    def start(self) -> None:
        """Look after the file from now on."""
        self._later(_LOOK_EVERY, self._look)

    def read(self) -> tuple[Contents, float] | None:
        """Return what the file holds and its age in seconds; None, and the log says why, if it is not to be used."""
        try:
            return decode(_read(self._path), self._node, time.time(), self._max_age)
        except FileNotFoundError:
            _log.info("last_known_good=%s is not there yet", self._path)
        except OSError as error:
            _log.warning("last_known_good=%s cannot be read: %s", self._path, error.strerror)
        except Refused as error:
            _log.warning("last_known_good=%s is refused, the control plane is waited for: %s", self._path, error)
        return None

    def changed(self) -> None:
        """What is in force changed; it is written within a second or so."""
        if not self._due:
            self._due = True
            self._later(_WRITE_AFTER, self._begin)

    def finish(self) -> None:
        """Write what is due, at the end."""
        if self._writer is not None:
            self._writer.join(_WRITE_AFTER)
        if self._due:
            self._begin()
        if self._writer is not None:
            self._writer.join(_WRITE_AFTER)

    def _look(self) -> None:
        self._later(_LOOK_EVERY, self._look)
        self.changed()

    def _begin(self) -> None:
        self._due = False
        if self._writer is not None and self._writer.is_alive():
            self.changed()  # a slow disk
            return
        contents, at = self._contents(), self._confirmed()
        if contents is None or (contents == self._written and at - self._written_at < self._max_age / 4):
            return
        self._writer = threading.Thread(target=self._save, args=(contents, at), name="meshlib-last-good", daemon=True)
        self._writer.start()

    def _save(self, contents: Contents, at: float) -> None:
        try:
            _write(self._path, encode(self._node, at, contents))
        except Exception as error:  # noqa: BLE001  whatever the disk does, calls go on
            if not self._failed:
                _log.warning("last_known_good=%s cannot be written; calls go on, tried again: %s", self._path, error)
            self._failed = True
        else:
            self._failed = False
            self._written, self._written_at = contents, at
