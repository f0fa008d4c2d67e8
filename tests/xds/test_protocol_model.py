"""The protocol against model servers: whatever the order of things, in the end the client holds what the server has.

Between a client and a server run two lists of messages, and Hypothesis decides who takes his next
one, what changes on either side, and when the stream breaks. Nothing of this may show in the end.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshlib.xds.delta import DeltaProtocol
from meshlib.xds.protocol import (
    DeltaRequest,
    Missing,
    Removed,
    Request,
    Response,
    StartTimer,
    StartTtl,
    Unsubscribed,
)
from meshlib.xds.sotw import SotwProtocol
from meshlib.xds.subscription import Phase
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, FULL_STATE

URLS = (CLUSTER, ENDPOINT)
NAMES = "abcd"


class World:
    """What there is: type -> name -> (version, whether it is good). Outlives streams."""

    def __init__(self):
        self.resources = {url: {} for url in URLS}
        self.versions = dict.fromkeys(URLS, 0)

    def put(self, url, name, *, is_good):
        self.versions[url] += 1
        self.resources[url][name] = (f"{self.versions[url]}", is_good)

    def delete(self, url, name):
        self.versions[url] += 1
        self.resources[url].pop(name, None)


class Message:
    """A response on the wire: what :class:`Response` is made of when it is taken."""

    def __init__(self, url, version, nonce, resources, removed=()):
        self.url, self.version, self.nonce, self.resources, self.removed = url, version, nonce, resources, removed


class ServerStream:
    """A server's side of one stream, as far as both variants agree."""

    def __init__(self, world):
        self.world = world
        self.heard_node = False
        self.names = {}  # type -> names subscribed to; a type is there once it was asked for
        self.sent = {url: {} for url in URLS}  # what the client was sent: name -> version
        self.nonces = dict.fromkeys(URLS, "")
        self.count = 0
        self.out = []

    def take(self, request):
        assert request.with_node is not self.heard_node, "the node goes with the first request and no other"
        self.heard_node = True

    def selected(self, url):
        """Return what there is for the client, of what it asked for."""
        names, resources = self.names[url], self.world.resources[url]
        return resources if "*" in names else {name: r for name, r in resources.items() if name in names}

    def send(self, url, resources, removed=()):
        self.count += 1
        self.nonces[url] = f"{id(self)}/{self.count}"
        self.out.append(
            Message(url, str(self.world.versions[url]), self.nonces[url], dict(resources), tuple(sorted(removed)))
        )


class SotwServer(ServerStream):
    """Like go-control-plane: stale nonces are passed over, and what is held by the version is not sent again."""

    def __init__(self, world, whole):
        super().__init__(world)
        self.whole = whole  # whether RDS and EDS come whole, or only what is new
        self.named = set()

    def take(self, request):
        super().take(request)
        url = request.type_url
        if request.nonce and request.nonce != self.nonces[url]:
            return
        assert not (url in FULL_STATE and url in self.named and not request.names), "empty after names"
        self.named |= {url} if request.names else set()
        first, before = url not in self.names, self.names.get(url, set())
        wildcard = not request.names and (url in FULL_STATE or url not in self.named)
        self.names[url] = {"*"} if wildcard else set(request.names)
        if first and request.version and request.version == str(self.world.versions[url]):
            # "Servers may decide to optimize by not resending", for they take all of it for held.
            self.sent[url] = {name: r[0] for name, r in self.selected(url).items()}
        elif first or self.names[url] != before:
            for name in before - self.names[url]:
                self.sent[url].pop(name, None)
            self.push(url, new=self.names[url] - before, force=first or url in FULL_STATE)

    def push(self, url, new=frozenset(), *, force=False):
        there = self.selected(url)
        news = {n: r for n, r in there.items() if n in new or self.sent[url].get(n) != r[0]}
        if force or news or (url in FULL_STATE and self.sent[url].keys() != there.keys()):
            self.send(url, there if self.whole or url in FULL_STATE else news)
        self.sent[url] = {name: r[0] for name, r in there.items()}


class DeltaServer(ServerStream):
    """Like go-control-plane; and like istiod, which says no versions and so takes none for the last one."""

    def __init__(self, world, _):
        super().__init__(world)
        self.legacy = set()

    def take(self, request):
        super().take(request)
        url = request.type_url
        if request.nonce:
            assert not request.subscribe
            assert not request.unsubscribe, "istiod passes over names in an ACK"
            return
        first = url not in self.names
        assert first or not request.initial_versions
        if first:
            self.names[url] = set()
            self.sent[url] = dict(request.initial_versions)
            if not request.subscribe:
                self.names[url] = {"*"}
                self.legacy.add(url)
        elif url in self.legacy and not request.subscribe:
            return  # as go-control-plane does: an unnamed wildcard stays
        if request.subscribe:
            self.legacy.discard(url)
        self.names[url] |= set(request.subscribe)
        self.names[url] -= set(request.unsubscribe)
        ambiguous = "*" in self.names[url]
        for name in request.unsubscribe:
            if ambiguous:
                self.sent[url][name] = "unsubscribed"
            else:
                self.sent[url].pop(name, None)
        if "*" in request.unsubscribe:
            self.sent[url] = {n: v for n, v in self.sent[url].items() if n in self.names[url]}
        new = set() if first else set(request.subscribe)  # "must still provide those resources"
        self.push(url, new, force=first and "*" in self.names[url])

    def push(self, url, new=frozenset(), *, force=False):
        there, sent = self.selected(url), self.sent[url]
        if "*" in new:
            new = new | there.keys()
        news = {n: r for n, r in there.items() if n in new or sent.get(n) != r[0]}
        removed = (sent.keys() | new) - there.keys() - {"*"}
        if force or news or removed:
            self.send(url, news, removed)
        self.sent[url] = {name: r[0] for name, r in there.items()}


class Conversation(RuleBasedStateMachine):
    """One client, one server after another."""

    kind = SotwProtocol

    @initialize(
        flag=st.booleans(),
        wanted=st.fixed_dictionaries({url: st.sets(st.sampled_from(NAMES), max_size=3) for url in URLS}),
        whole=st.booleans(),
    )
    def begin(self, flag, wanted, whole):
        self.flag = flag
        self.world = World()
        self.protocol = self.kind(URLS)
        self.server = None
        self.requests = []
        self.wanted = {url: set() for url in URLS}
        self.held = {url: {} for url in URLS}  # what the client has in force: name -> version
        self.refused = {url: {} for url in URLS}
        self.missing = {url: set() for url in URLS}
        self.timers = []
        for url in URLS:
            for name in "abc":
                self.world.put(url, name, is_good=True)
            self.change(url, {"*"} if whole and url in FULL_STATE else wanted[url], set())
        self.open()

    def perform(self, outputs):
        for output in outputs:
            if isinstance(output, Request | DeltaRequest):
                assert self.server is not None, "nothing is sent without a stream"
                self.requests.append(output)
            elif isinstance(output, StartTimer):
                assert self.server is not None
                self.timers.append(output)
            elif isinstance(output, Missing):
                assert self.server is not None, "nothing is missing while the server is away"
                assert not output.names & self.held[output.type_url].keys()
                self.missing[output.type_url] |= output.names
            elif isinstance(output, Removed):
                assert output.names
                self.forget(output)
                self.missing[output.type_url] |= output.names
            elif isinstance(output, Unsubscribed):
                self.forget(output)
                self.missing[output.type_url] -= output.names
            else:
                assert not isinstance(output, StartTtl)

    def forget(self, output):
        for name in output.names:
            self.held[output.type_url].pop(name, None)
            self.refused[output.type_url].pop(name, None)

    def deliver(self, message):
        url = message.url
        names = self.protocol.names(url)
        good = {n: r[0] for n, r in message.resources.items() if r[1]}
        bad = {n: r[0] for n, r in message.resources.items() if not r[1]}
        for name, version in good.items():
            if name in names or "*" in names:
                self.held[url][name] = version
                self.refused[url].pop(name, None)
                self.missing[url].discard(name)
        for name, version in bad.items():
            if name in names or "*" in names:
                self.refused[url][name] = version
                self.missing[url].discard(name)
        versions = good if self.flag else dict.fromkeys(good, "")
        outputs = self.protocol.response(
            Response(
                url,
                message.version,
                message.nonce,
                tuple(message.resources),
                tuple(bad),
                removed=message.removed,
                versions=versions if self.kind is DeltaProtocol else {},
            )
        )
        answer = outputs[0]
        assert answer.nonce == message.nonce
        assert bool(answer.error) is bool(bad)
        self.perform(outputs)

    @rule(url=st.sampled_from(URLS), name=st.sampled_from(NAMES), is_good=st.sampled_from((True, True, False)))
    def put(self, url, name, is_good):
        self.world.put(url, name, is_good=is_good)

    @rule(url=st.sampled_from(URLS), name=st.sampled_from(NAMES))
    def delete(self, url, name):
        # SotW cannot say that a route table or an assignment is gone.
        if url in FULL_STATE or self.kind is DeltaProtocol:
            self.world.delete(url, name)

    @rule(
        url=st.sampled_from(URLS),
        added=st.sets(st.sampled_from(NAMES + "*"), max_size=3),
        gone=st.sets(st.sampled_from(NAMES + "*"), max_size=5),
    )
    def change(self, url, added, gone):
        if url not in FULL_STATE:
            added = added - {"*"}  # there is no wildcard of these
        self.wanted[url] = (self.wanted[url] - gone) | added
        self.perform(self.protocol.change(url, added, gone))

    @precondition(lambda self: self.server is None)
    @rule()
    def open(self):
        make = SotwServer if self.kind is SotwProtocol else DeltaServer
        self.server = make(self.world, self.flag)
        self.perform(self.protocol.opened())

    @precondition(lambda self: self.server is not None)
    @rule()
    def lose(self):
        self.server = None
        self.requests.clear()
        assert self.protocol.closed() == []

    @precondition(lambda self: self.server is not None)
    @rule()
    def begin_anew(self):
        self.lose()
        self.open()

    @precondition(lambda self: self.server is not None and self.requests)
    @rule()
    def server_takes(self):
        self.server.take(self.requests.pop(0))

    @precondition(lambda self: self.server is not None)
    @rule(urls=st.permutations(URLS))
    def server_pushes(self, urls):
        for url in urls:
            if url in self.server.names:
                self.server.push(url)

    @precondition(lambda self: self.server is not None and self.server.out)
    @rule()
    def client_takes(self):
        self.deliver(self.server.out.pop(0))

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def ring(self, data):
        # At any time, as a driver's clock may do; those of former streams, too.
        timer = data.draw(st.sampled_from(self.timers))
        outputs = self.protocol.timeout(timer)
        assert self.server is not None or outputs == []
        self.perform(outputs)
        assert self.protocol.timeout(timer) == []

    @rule()
    def settle(self):
        """Let everything that is under way arrive, and all timers end; then look."""
        if self.server is None:
            self.open()
        self.drain()
        self.server_pushes(URLS)
        self.drain()
        for timer in self.timers:
            self.perform(self.protocol.timeout(timer))
        self.timers.clear()
        for url in URLS:
            self.check(url)

    def drain(self):
        for _ in range(200):
            if self.requests:
                self.server_takes()
            elif self.server.out:
                self.client_takes()
            else:
                return
        raise AssertionError("answers bring answers without end")

    def check(self, url):
        wanted = self.wanted[url]
        for name in NAMES:
            if name not in wanted and "*" not in wanted:
                continue
            there = self.world.resources[url].get(name)
            if there is None:
                assert name not in self.held[url]
                assert name not in wanted or name in self.missing[url], "the caller would wait for ever"
            elif there[1]:
                assert self.held[url].get(name) == there[0]
                assert name not in self.missing[url]
            else:
                assert self.refused[url].get(name) == there[0]
                assert name not in self.missing[url]
        if wanted:
            extra = self.held[url].keys() - (set(NAMES) if "*" in wanted else wanted)
            assert not extra, "what is not wanted is forgotten"

    @invariant()
    def the_client_says_what_is(self):
        if not hasattr(self, "protocol"):
            return
        assert self.protocol.connected is (self.server is not None)
        for url in URLS:
            assert (self.protocol.phase(url) is Phase.OFFLINE) is (self.server is None)
            if self.wanted[url]:
                assert self.protocol.names(url) == self.wanted[url]


class DeltaConversation(Conversation):
    kind = DeltaProtocol


Conversation.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
DeltaConversation.TestCase.settings = Conversation.TestCase.settings
TestSotw = Conversation.TestCase
TestDelta = DeltaConversation.TestCase
