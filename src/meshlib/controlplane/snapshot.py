"""What one view of the mesh is served, encoded once for all clients that have the view.

Serialised protobuf messages that are put one behind the other are one merged message, so a
response is a header of its own and, behind it, pieces that every client shares: nothing is
encoded again for the next client, nor for the next push unless it changed.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from google.protobuf.message import Message

from meshlib.controlplane.resources import TYPE_URLS, Resources


class Form(Enum):
    """The two forms of the protocol, whose responses hold resources differently."""

    SOTW = "sotw"
    DELTA = "delta"


class Encoded:
    """One resource on the wire.

    Attributes:
        name: its name.
        message: what it was made of; never changed.
        version: a hash of its content: equal for equal content, whoever encoded it and when.
    """

    __slots__ = ("__weakref__", "_data", "_pieces", "_url", "message", "name", "version")

    def __init__(self, url: str, name: str, message: Message) -> None:
        self.name = name
        self.message = message
        self._url = url
        self._data = message.SerializeToString(deterministic=True)
        self._pieces: dict[Form, bytes] = {}
        self.version = hashlib.blake2b(self._data, digest_size=8).hexdigest()

    @property
    def packed(self) -> Any:
        """The resource as an Any."""
        return any_pb2.Any(type_url=self._url, value=self._data)

    def piece(self, form: Form) -> bytes:
        """Return a serialised response with this resource and nothing else."""
        if form not in self._pieces:
            response: Any
            if form is Form.SOTW:
                response = discovery_pb2.DiscoveryResponse(resources=[self.packed])
            else:
                resource = discovery_pb2.Resource(name=self.name, version=self.version, resource=self.packed)
                response = discovery_pb2.DeltaDiscoveryResponse(resources=[resource])
            self._pieces[form] = response.SerializeToString()
        return self._pieces[form]


@dataclass(frozen=True, slots=True)
class Change:
    """How one type differs between two snapshots.

    Attributes:
        changed: names that are new or have other content.
        removed: names that are gone.
    """

    changed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


_NO_CHANGE = Change()


class Snapshot:
    """The resources of one view at one moment. Its content never changes; shared between threads.

    Args:
        resources: of the view.
        version: what they are called.
        before: an earlier snapshot of the view; what has not changed is not encoded again.
    """

    def __init__(self, resources: Resources, version: str, before: Snapshot | None = None) -> None:
        self.resources = resources
        self.version = version
        self._by_type: dict[str, Mapping[str, Encoded]] = {
            url: MappingProxyType(_encode(url, resources.by_type[url], before[url] if before else {}))
            for url in TYPE_URLS
        }
        self._wholes: dict[tuple[str, Form], bytes] = {}
        self._changes: weakref.WeakKeyDictionary[Snapshot, Mapping[str, Change]] = weakref.WeakKeyDictionary()

    def __getitem__(self, url: str) -> Mapping[str, Encoded]:
        """Return the resources of a type by name."""
        return self._by_type[url]

    def whole(self, url: str, form: Form) -> bytes:
        """Return the pieces of all resources of a type."""
        key = url, form
        if key not in self._wholes:
            self._wholes[key] = b"".join(item.piece(form) for item in self._by_type[url].values())
        return self._wholes[key]

    def since(self, before: Snapshot) -> Mapping[str, Change]:
        """Return how each type differs from ``before``; worked out once for all that had it."""
        found = self._changes.get(before)
        if found is None:
            found = {url: _change(before._by_type[url], self._by_type[url]) for url in TYPE_URLS}
            self._changes[before] = found
        return found


def _encode(url: str, messages: Mapping[str, Message], before: Mapping[str, Encoded]) -> dict[str, Encoded]:
    made: dict[str, Encoded] = {}
    for name, message in messages.items():
        known = before.get(name)
        if known is not None and known.message is message:
            made[name] = known
            continue
        encoded = _shared.get(id(message))
        if encoded is None:
            encoded = _shared[id(message)] = Encoded(url, name, message)
        # What has its old content is the old one, so that most comparisons are of identities.
        made[name] = known if known is not None and known.version == encoded.version else encoded
    return made


# By the identity of the message, which its Encoded keeps alive: views share most of their messages.
_shared: weakref.WeakValueDictionary[int, Encoded] = weakref.WeakValueDictionary()


def _change(before: Mapping[str, Encoded], after: Mapping[str, Encoded]) -> Change:
    changed = frozenset(
        name
        for name, item in after.items()
        if (known := before.get(name)) is not item and (known is None or known.version != item.version)
    )
    removed = before.keys() - after.keys()
    return Change(changed, frozenset(removed)) if changed or removed else _NO_CHANGE


EMPTY = Snapshot(Resources(), "")
