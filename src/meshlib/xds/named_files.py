"""Resources that are asked for by name in a watched file: RDS, EDS and SDS of a ``path_config_source``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from meshlib.xds.bootstrap_parts import PathSource
from meshlib.xds.config_source import elsewhere, in_file
from meshlib.xds.files import FileBroken, FileEvent, FileSource, FileUpdate
from meshlib.xds.protos import discovery_pb2, secret_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import SECRET

_Place = tuple[str, PathSource]  # type URL and file


@dataclass(slots=True)
class _File:
    source: FileSource
    names: set[str]
    last: FileUpdate | None = None
    read: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds of the names asked of it.

    Attributes:
        type_url: the type.
        path: the file.
        version: of its contents.
        resources: all its resources, each a serialised ``Any``, by their names here.
        wanted: the names asked for; those it does not hold do not exist.
        broken: why it cannot be used ("": it can); what was good before stays.
    """

    type_url: str
    path: str
    version: str
    resources: tuple[bytes, ...]
    wanted: frozenset[str]
    broken: str = ""


class NamedFiles:
    """The files in which names are. Not thread-safe: one thread owns it.

    Args:
        post: runs a function in that thread; called from the threads that watch.
        take: takes what a file holds, in that thread.
    """

    def __init__(self, post: Callable[[Callable[[], None]], None], take: Callable[[Found], None]) -> None:
        self._post = post
        self._take = take
        self._files: dict[_Place, _File] = {}

    def add(self, type_url: str, names: Iterable[str]) -> None:
        """Ask for names; what their files hold is taken once they are read, and again when they change."""
        for name in names:
            place = _place(type_url, name)
            file = self._files.get(place)
            if file is not None:
                file.names.add(name)
                if file.read:
                    self._post(partial(self._tell, place, file.last or FileBroken(type_url, place[1].path, "")))
                continue
            source = FileSource(type_url, place[1], partial(self._heard, place))
            self._files[place] = _File(source, {name})
            source.start()

    def drop(self, type_url: str, names: Iterable[str]) -> None:
        """Give names up; a file that nothing is asked of is not watched any more."""
        for name in names:
            place = _place(type_url, name)
            file = self._files.get(place)
            if file is not None:
                file.names.discard(name)
                if not file.names:
                    del self._files[place]
                    file.source.close(wait=False)  # what it still tells is not listened to

    def close(self) -> None:
        """Stop watching."""
        for file in self._files.values():
            file.source.close()
        self._files = {}

    def _heard(self, place: _Place, event: FileEvent) -> None:
        self._post(partial(self._tell, place, event))

    def _tell(self, place: _Place, event: FileEvent) -> None:
        file = self._files.get(place)
        if file is None:
            return
        file.read = True
        type_url, source = place
        broken = event.reason or "cannot be used" if isinstance(event, FileBroken) else ""
        if isinstance(event, FileUpdate):
            file.last = event
        last = file.last
        resources = tuple(_renamed(type_url, packed, source) for packed in last.resources) if last is not None else ()
        version = last.version if last is not None else ""
        self._take(Found(type_url, source.path, version, resources, frozenset(file.names), broken))


def _place(type_url: str, name: str) -> _Place:
    where = elsewhere(name)
    assert where is not None
    return type_url, PathSource(where.path, where.watched_directory)


def _renamed(type_url: str, packed: any_pb2.Any, source: PathSource) -> bytes:
    """Return a resource under the name that tells the file it is in; what does not parse is left as it is."""
    return _under(type_url, packed, partial(in_file, source.path, source.watched_directory))


def _under(type_url: str, packed: any_pb2.Any, rename: Callable[[str], str]) -> bytes:
    """Return a resource under another name, as a serialised ``Any``; what does not parse is left as it is."""
    kind = RESOURCE_TYPES[type_url]
    try:
        message = kind.message.FromString(packed.value)
    except DecodeError:
        return packed.SerializeToString()
    if packed.type_url == type_url and getattr(message, kind.name_field):
        setattr(message, kind.name_field, rename(getattr(message, kind.name_field)))
    renamed_any = any_pb2.Any(type_url=packed.type_url, value=message.SerializeToString(deterministic=True))
    return renamed_any.SerializeToString()


def also_named(resources: Iterable[bytes], aliases: Mapping[str, Collection[str]]) -> list[bytes]:
    """Return secrets once more under each of their other names here."""
    found = []
    for raw in resources:
        try:
            packed = any_pb2.Any.FromString(raw)
            if packed.type_url.endswith("/" + discovery_pb2.Resource.DESCRIPTOR.full_name):
                packed = discovery_pb2.Resource.FromString(packed.value).resource
            name = secret_pb2.Secret.FromString(packed.value).name
        except DecodeError:
            continue  # refused under the name it has, or for having none
        found += [_under(SECRET, packed, {name: alias}.__getitem__) for alias in aliases.get(name, ())]
    return found
