"""Captured streams, taken response by response, and what ``explain`` then says of a URL."""

from __future__ import annotations

import json
import random
from pathlib import Path
from urllib.parse import urlsplit

from google.protobuf.internal.decoder import _DecodeVarint

from meshlib.explain import Explanation, explain
from meshlib.model.names import search_list
from meshlib.model.request import RequestView
from meshlib.model.snapshot import Snapshot, Style
from meshlib.policy.state import LiveSnapshot, MeshState
from meshlib.xds.assembly import Assembly
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import FULL_STATE

PLAIN_ROUTES = ("", "default", "allow_any", "block_all")
HOME = ".istioinaction.svc.cluster.local"


class Replay:
    """One captured stream: ``CLIENT.jsonl`` says in what order, ``CLIENT.pb`` holds the responses.

    A client's rules: a state-of-the-world CDS, LDS or NDS response holds all there is, one of RDS
    or EDS may be partial; a delta response says what is gone.
    """

    def __init__(self, path: Path) -> None:
        self._rows = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
        self._data = _messages(path)
        self._delta = path.name.endswith(".delta.pb")
        self._at = 0
        node = next(row["message"]["node"] for row in self._rows if "node" in row.get("message", ()))
        style = Style.GRPC if node.get("metadata", {}).get("GENERATOR") == "grpc" else Style.SIDECAR
        self._assembly = Assembly(style, search=search_list(node["id"]))
        self._state: dict[str, dict[str, bytes]] = {}  # type URL -> name -> Any
        self._state_of_mesh = MeshState(lambda: 0.0, random.Random(1))

    @property
    def snapshot(self) -> Snapshot:
        return self._assembly.snapshot()

    @property
    def live(self) -> LiveSnapshot:
        return self._state_of_mesh.bind(self.snapshot)

    def steps(self) -> list[str]:
        """The notes that mark the steps of the stream, in order."""
        return [row["note"] for row in self._rows if row["dir"] == "note"]

    def until(self, note: str) -> Replay:
        """Take what came up to the end of the step that ``note`` begins."""
        begun = False
        while self._at < len(self._rows):
            row = self._rows[self._at]
            if row["dir"] == "note":
                if begun:
                    return self
                begun = row["note"] == note
            self._take(row)
            self._at += 1
        assert begun, f"no step {note!r}"
        return self

    def to_end(self) -> Replay:
        """Take everything that is left."""
        for row in self._rows[self._at :]:
            self._take(row)
        self._at = len(self._rows)
        return self

    def _take(self, row: dict) -> None:
        if row["dir"] != "received" or "pb_index" not in row:
            return
        data = self._data[row["pb_index"]]
        if self._delta:
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
            packed = [resource.resource for resource in response.resources]
        else:
            response = discovery_pb2.DiscoveryResponse.FromString(data)
            packed = list(response.resources)
        kind = RESOURCE_TYPES.get(response.type_url)
        if kind is None:
            return  # ECDS and the like
        raw = [one.SerializeToString() for one in packed]
        replaces = kind.url in FULL_STATE and not self._delta
        state = self._state[kind.url] = {} if replaces else self._state.get(kind.url, {})
        state |= {kind.examine(one).name: one for one in raw}
        for name in response.removed_resources if self._delta else ():
            state.pop(name, None)
        packed_by_type = {url: list(by_name.values()) for url, by_name in self._state.items()}
        assert self._assembly.apply(str(self._at), {}, packed_by_type) == ()

    def explain(self, url: str, headers: tuple[tuple[str, str], ...] = (), method: str = "GET") -> Explanation:
        """Return what the mesh says of a call, as of now."""
        chance = random.Random(1)
        return explain(self.live, view(url, headers, method), chance)


def view(url: str, headers: tuple[tuple[str, str], ...] = (), method: str = "GET") -> RequestView:
    """Return a request as a transport would; a ``host`` header becomes the authority."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    authority = dict(headers).get("host", parts.netloc)
    rest = tuple(pair for pair in headers if pair[0] != "host")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return RequestView(
        method=method,
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=port,
        authority=authority,
        target=target,
        headers=rest,
    )


def _messages(path: Path) -> list[bytes]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        length, at = _DecodeVarint(data, at)
        found.append(data[at : at + length])
        at += length
    return found


def short(name: str) -> str:
    """Write a name of Istio's briefly: ``~`` is the suffix of services of istioinaction."""
    return name.replace(HOME, "~").replace("outbound|", "")


def told(found: Explanation) -> str:
    """Write an explanation on one line.

    ``LISTENER > TABLE / VIRTUAL HOST [ROUTE TIMEOUT] > TARGETS``, for bytes ``LISTENER > TARGETS``;
    a target is ``CLUSTER = ENDPOINTS``, with ``@weight`` where there are several. The route is left
    out where its name says nothing and it has no timeout.
    """
    if not found.listener:
        return "nothing"
    steps = [short(found.listener)]
    if found.route_config or found.virtual_host:
        named = "" if found.route in PLAIN_ROUTES else found.route
        what = " ".join(filter(None, (named, f"{found.timeout:g}s" if found.timeout else "")))
        host = f" / {short(found.virtual_host)}" if found.virtual_host else ""
        steps.append(short(found.route_config) + host + (f" [{what}]" if what else ""))
    if found.clusters:
        several = len(found.clusters) > 1
        targets = []
        for cluster in found.clusters:
            ends = ",".join(sorted(short(each.address) for each in cluster.endpoints)) if cluster.exists else "NC"
            targets.append(short(cluster.name) + (f"@{cluster.weight}" if several else "") + f" = {ends or 'UH'}")
        steps.append(" + ".join(targets))
    else:
        steps.append(found.action or "404")
    return " > ".join(steps)
