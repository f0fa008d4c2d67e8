"""Resources in a file: ``core.v3.PathConfigSource``, read and watched.

The file holds a ``DiscoveryResponse``, in the format its ending tells, as in Envoy: ``.pb`` is
binary, ``.pb_text`` protobuf's text, and the rest JSON or YAML. A file that cannot be used never
takes away what it held before.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.message import DecodeError

from meshlib.errors import BootstrapError
from meshlib.watch import changes
from meshlib.xds.bootstrap_parts import PathSource
from meshlib.xds.documents import import_types, position, read_document
from meshlib.xds.newer import parse_dict
from meshlib.xds.protos import discovery_pb2

# Envoy takes up moves alone, since a file that is written in place can be read half done. We take
# those up too, once the file has said the same twice, this many seconds apart.
_WRITTEN = 0.1


@dataclass(frozen=True, slots=True)
class FileUpdate:
    """A file holds something new.

    Attributes:
        type_url: the type it is read for.
        path: the file.
        version: its ``version_info``, perhaps empty.
        resources: its resources, each an ``Any``: everything there is in it.
    """

    type_url: str
    path: str
    version: str
    resources: Sequence[Any]


@dataclass(frozen=True, slots=True)
class FileBroken:
    """A file cannot be used, and what it held before stays.

    Attributes:
        type_url: the type it is read for.
        path: the file.
        reason: "FILE:LINE:COLUMN: what is wrong", without line and column where there are none.
    """

    type_url: str
    path: str
    reason: str


FileEvent = FileUpdate | FileBroken


class FileSource:
    """Reads a file, and reads it again when it may have changed, in a thread of its own.

    Args:
        type_url: the type of its resources.
        source: the file, and the folder to watch.
        post: takes an event for each new content, the first at once; called on the thread.
    """

    def __init__(self, type_url: str, source: PathSource, post: Callable[[FileEvent], None]) -> None:
        self._type_url = type_url
        self._path = Path(source.path)
        # A ConfigMap's file is a link into a folder that a renamed link points to: the folder
        # that holds this link is the one to watch, and often is the file's own.
        self._folder = Path(source.watched_directory) if source.watched_directory else self._path.parent
        self._post = post
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"meshlib-file-{self._path.name}", daemon=True)
        # Within the thread only.
        self._last: tuple[bytes | None, tuple[int, int]] | None = None

    def start(self) -> None:
        """Begin to read and watch; returns at once."""
        self._thread.start()

    def close(self, *, wait: bool = True) -> None:
        """Stop; no event follows, where that is waited for. Idempotent."""
        self._stop.set()
        if wait and self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        for _ in changes(self._folder, self._stop, recursive=False):
            found = self._settled()
            if self._stop.is_set():
                return
            if self._last is None or found[0] != self._last[0]:
                self._post(self._event(found[0]))
            self._last = found

    def _settled(self) -> tuple[bytes | None, tuple[int, int]]:
        """Return what the file holds (None: it is not there) when nobody is writing it."""
        found = _read(self._path)
        if self._last is None or found[0] == self._last[0] or found[1] != self._last[1]:
            return found  # the first look, nothing new, or moved into place
        while not self._stop.wait(_WRITTEN):
            again = _read(self._path)
            if again == found:
                break
            found = again
        return found

    def _event(self, raw: bytes | None) -> FileEvent:
        path = str(self._path)
        if raw is None:
            return FileBroken(self._type_url, path, f"{path}: cannot be read or is not there")
        try:
            response = parse(raw, path)
        except BootstrapError as error:
            return FileBroken(self._type_url, path, str(error))
        return FileUpdate(self._type_url, path, response.version_info, tuple(response.resources))


def parse(raw: bytes, path: str) -> Any:
    """Return the ``DiscoveryResponse`` in a file's bytes.

    Raises:
        BootstrapError: "FILE:LINE:COLUMN: what is wrong".
    """
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".pb":
            return discovery_pb2.DiscoveryResponse.FromString(raw)
        text = raw.decode("utf-8")
    except (DecodeError, UnicodeDecodeError) as error:
        raise BootstrapError(f"{path}: {error}") from error
    if suffix == ".pb_text":
        return _parse_text(text, path)
    return _parse_document(text, path)


def _parse_text(text: str, path: str) -> Any:
    import_types([{"@type": url} for url in re.findall(r"\[\s*([\w.-]+/[\w.]+)\s*\]", text)])
    try:
        return text_format.Parse(text, discovery_pb2.DiscoveryResponse())
    except text_format.ParseError as error:
        line, column = error.GetLine() or 1, error.GetColumn() or 1
        reason = re.sub(r"^\d+:\d+ : ", "", str(error))
        raise BootstrapError(f"{path}:{line}:{column}: {reason}") from error


def _parse_document(text: str, path: str) -> Any:
    data = read_document(text, path)
    if not isinstance(data, dict):
        raise BootstrapError(f"{path}:1:1: expected a DiscoveryResponse, not {data!r:.80}")
    import_types(data)
    response = discovery_pb2.DiscoveryResponse()
    rest = {key: value for key, value in data.items() if key != "resources"}
    _fill(rest, response, text, path, ())
    resources = data.get("resources") or []
    if not isinstance(resources, list):
        line, column = position(text, ("resources",))
        raise BootstrapError(f"{path}:{line}:{column}: resources: expected a list, not {resources!r:.80}")
    for i, resource in enumerate(resources):
        _fill(resource, response.resources.add(), text, path, ("resources", i))
    return response


def _fill(data: Any, message: Any, text: str, path: str, steps: tuple[str | int, ...]) -> None:
    """Fill a message from plain JSON; says where in the text what is wrong is, as far as protobuf tells."""
    try:
        parse_dict(data, message)
    except (json_format.ParseError, TypeError, AttributeError, ValueError) as error:
        named = re.search(r'no field named "([^"]+)"|parse (\w+) field', str(error))
        line, column = position(text, steps, (named[1] or named[2]) if named else "")
        place = f"resources[{steps[1]}]: " if steps else ""
        raise BootstrapError(f"{path}:{line}:{column}: {place}{error}") from error


def _read(path: Path) -> tuple[bytes | None, tuple[int, int]]:
    try:
        with path.open("rb") as file:
            raw = file.read()
            status = path.stat()
    except OSError:
        return None, (0, 0)
    return raw, (status.st_dev, status.st_ino)
