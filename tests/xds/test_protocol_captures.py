"""The protocol beside the recorded client: given what istiod sent, it says what that client said."""

import json

import pytest

from meshlib.xds.delta import DeltaProtocol
from meshlib.xds.protocol import DeltaRequest, Missing, Removed, Request, Response, Unsubscribed
from meshlib.xds.sotw import SotwProtocol
from meshlib.xds.subscription import Phase
from meshlib.xds.type_urls import FULL_STATE, LISTENER, TYPE_URLS, short

CAPTURES = (
    "changes-sidecar/sidecar-webapp.jsonl",
    "changes-grpc/grpc-webapp.jsonl",
    "changes-sidecar-delta/sidecar-webapp.delta.jsonl",
    "changes-grpc-delta/grpc-webapp.delta.jsonl",
    "grpc-names/08-known-and-unknown.jsonl",
    "grpc-names/08-known-and-unknown.delta.jsonl",
    "grpc-names/09-no-names-wildcard.delta.jsonl",
)


def response_of(message):
    """Return what the protocol is told of a recorded response; in these captures nothing is refused."""
    resources = message.get("resources", ())
    if "system_version_info" in message or "removed_resources" in message:
        versions = {one["name"]: one.get("version", "") for one in resources}
        version, names, removed = message["system_version_info"], tuple(versions), message.get("removed_resources", ())
    else:
        versions, version, removed = {}, message["version_info"], ()
        names = tuple(one.get("name") or one["cluster_name"] for one in resources)
    return Response(message["type_url"], version, message["nonce"], names, removed=removed, versions=versions)


def request_of(message, delta):
    """Return a recorded request as ours would be; the node was seen to be in the first."""
    common = {"nonce": message.get("response_nonce", ""), "with_node": "node" in message}
    if delta:
        names = (tuple(sorted(message.get(f"resource_names_{verb}", ()))) for verb in ("subscribe", "unsubscribe"))
        return DeltaRequest(message["type_url"], *names, **common)
    names = tuple(sorted(message.get("resource_names", ())))
    return Request(message["type_url"], names, message.get("version_info", ""), **common)


class Replay:
    """Takes the rows of a capture in order; a response when the recorded client answered it."""

    def __init__(self, delta):
        self.delta = delta
        self.protocol = DeltaProtocol() if delta else SotwProtocol()
        self.waiting = {}
        self.names = {url: set() for url in TYPE_URLS}
        self.held = {url: set() for url in TYPE_URLS}
        self.missing = {url: set() for url in TYPE_URLS}
        self.sent = 0
        assert self.protocol.opened() == []

    def take(self, row):
        if row["dir"] == "received" and row["message"]["type_url"] in TYPE_URLS:
            self.waiting[row["message"]["nonce"]] = response_of(row["message"])
        elif row["dir"] == "sent" and row["message"]["type_url"] in TYPE_URLS:
            self.sent += 1
            recorded = request_of(row["message"], self.delta)
            if recorded.nonce in self.waiting:
                self.answer(self.waiting.pop(recorded.nonce), recorded)
            else:
                self.change(row["message"], recorded)

    def answer(self, response, recorded):
        url = response.type_url
        outputs = self.protocol.response(response)
        assert outputs[0] == recorded
        # Told by hand what the response means, as one who knows the captures would.
        held = self.held[url]
        wanted = set(response.names) if "*" in self.names[url] else set(response.names) & self.names[url]
        gone = set(response.removed) | (held - set(response.names) if url in FULL_STATE and not self.delta else set())
        assert {n for o in outputs if isinstance(o, Removed) for n in o.names} == held & gone
        missing = {n for o in outputs if isinstance(o, Missing) for n in o.names}
        assert missing == (gone - held) & self.names[url]
        self.missing[url] |= missing
        self.held[url] = (held - gone) | wanted

    def change(self, message, recorded):
        url, names = recorded.type_url, self.names[recorded.type_url]
        if self.delta:
            added, gone = set(recorded.subscribe), set(recorded.unsubscribe)
        else:
            added, gone = set(recorded.names) - names, names - set(recorded.names)
        if not added and not gone:
            assert self.protocol.phase(url) is Phase.IDLE, message
            added = {"*"}  # the first request of a type, without names
        names |= added
        names -= gone
        outputs = self.protocol.change(url, added, gone)
        if recorded == DeltaRequest(url, ("*",), with_node=recorded.with_node):
            recorded = DeltaRequest(url, with_node=recorded.with_node)  # the other way of saying so
        assert outputs[0] == recorded
        for output in outputs:
            if isinstance(output, Unsubscribed):
                self.held[url] -= output.names


@pytest.mark.parametrize("capture", CAPTURES)
def test_it_says_what_the_recorded_client_said(istiod, capture):
    with (istiod / capture).open() as lines:
        rows = [json.loads(line) for line in lines]
    replay = Replay(".delta." in capture)
    for row in rows:
        replay.take(row)
    assert not replay.waiting, "every response was answered"
    assert replay.sent > (70 if capture.startswith("changes") else 3)
    for url in TYPE_URLS:
        state = f"{short(url)} {capture}"
        assert replay.protocol.phase(url) in (Phase.ACKED, Phase.IDLE), state
        assert bool(replay.held[url]) is (replay.protocol.phase(url) is Phase.ACKED), state
    if "unknown" in capture and replay.delta:
        assert replay.missing[LISTENER] == {"nothing.example:80"}
