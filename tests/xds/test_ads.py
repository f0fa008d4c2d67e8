"""The protocol as a table, and as whatever a server and a network may do to it."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshlib.xds.ads import _NEXT, AdsProtocol, Input, Missing, Phase, Removed, Request, StartTimer
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, FULL_STATE, LISTENER, ROUTE, TYPE_URLS

ALL = {"*"}


def opened(**wants):
    """Return a protocol on an open stream with subscriptions, and what it put out."""
    protocol = AdsProtocol()
    names = {"cds": CLUSTER, "eds": ENDPOINT, "lds": LISTENER, "rds": ROUTE}
    for key, wanted in wants.items():
        assert protocol.want(names[key], wanted) == [], "nothing goes out without a stream"
    return protocol, protocol.opened()


def requests(outputs):
    return [output for output in outputs if isinstance(output, Request)]


def timers(outputs):
    return [output for output in outputs if isinstance(output, StartTimer)]


@pytest.mark.parametrize(
    ("wants", "sent"),
    [
        ({}, []),
        ({"lds": ALL}, [Request(LISTENER, (), with_node=True)]),
        ({"lds": ALL, "cds": ALL}, [Request(CLUSTER, (), with_node=True), Request(LISTENER)]),
        ({"lds": {"b:80", "a:80"}}, [Request(LISTENER, ("a:80", "b:80"), with_node=True)]),
        ({"eds": {"x"}, "cds": ALL}, [Request(CLUSTER, (), with_node=True), Request(ENDPOINT, ("x",))]),
        ({"eds": set()}, []),
        ({"lds": set()}, []),
    ],
)
def test_a_new_stream_asks_for_everything_and_sends_the_node_once(wants, sent):
    assert requests(opened(**wants)[1]) == sent


@pytest.mark.parametrize(
    ("faults", "answer", "phase", "version"),
    [
        ((), Request(CLUSTER, (), "2", "n2"), Phase.ACKED, "2"),
        (
            ("CDS a: bad", "CDS b: worse"),
            Request(CLUSTER, (), "1", "n2", "CDS a: bad; CDS b: worse"),
            Phase.NACKED,
            "1",
        ),
    ],
)
def test_a_response_is_answered_with_its_nonce(faults, answer, phase, version):
    protocol, _ = opened(cds=ALL)
    protocol.response(CLUSTER, "1", "n1", ["a", "b"])
    assert requests(protocol.response(CLUSTER, "2", "n2", ["a", "b"], faults)) == [answer]
    assert (protocol.phase(CLUSTER), protocol.version(CLUSTER)) == (phase, version)


def test_after_a_nack_a_good_response_is_acked():
    protocol, _ = opened(cds=ALL)
    protocol.response(CLUSTER, "1", "n1", ["a"], ["bad"])
    assert requests(protocol.response(CLUSTER, "2", "n2", ["a"])) == [Request(CLUSTER, (), "2", "n2")]


def test_an_ack_goes_out_even_when_nothing_is_wanted_any_more():
    protocol, _ = opened(eds={"a"})
    protocol.want(ENDPOINT, set())
    assert protocol.response(ENDPOINT, "1", "n1", ["a"]) == [Request(ENDPOINT, (), "1", "n1")]


@pytest.mark.parametrize(
    ("url", "present", "complete", "removed"),
    [
        (CLUSTER, ["a"], True, {"b"}),
        (LISTENER, [], True, {"a", "b"}),
        (CLUSTER, ["a"], False, set()),
        (ROUTE, ["a"], True, set()),
        (ENDPOINT, [], True, set()),
    ],
)
def test_absence_is_deletion_in_lds_and_cds_alone(url, present, complete, removed):
    protocol = AdsProtocol()
    protocol.want(url, ALL if url in FULL_STATE else {"a", "b"})
    protocol.opened()
    protocol.response(url, "1", "n1", ["a", "b"])
    outputs = protocol.response(url, "2", "n2", present, complete=complete)
    assert [o for o in outputs if isinstance(o, Removed)] == ([Removed(url, frozenset(removed))] if removed else [])


def test_a_faulty_resource_is_not_absent():
    protocol, _ = opened(cds=ALL)
    protocol.response(CLUSTER, "1", "n1", ["a"])
    assert not [o for o in protocol.response(CLUSTER, "2", "n2", ["a"], ["bad"]) if isinstance(o, Removed)]


def test_a_name_that_never_came_is_left_to_its_timer():
    protocol, outputs = opened(lds={"a:80", "b:80"})
    (timer,) = timers(outputs)
    assert timer.names == {"a:80", "b:80"}
    assert not [o for o in protocol.response(LISTENER, "1", "n1", ["a:80"]) if isinstance(o, Removed)]
    assert protocol.timeout(timer) == [Missing(LISTENER, frozenset({"b:80"}))]
    assert protocol.timeout(timer) == [], "once"


def test_a_timer_of_a_lost_stream_says_nothing():
    protocol, outputs = opened(eds={"a"})
    (timer,) = timers(outputs)
    protocol.closed()
    assert protocol.timeout(timer) == []
    (again,) = timers(protocol.opened())
    assert protocol.timeout(timer) == []
    assert protocol.timeout(again) == [Missing(ENDPOINT, frozenset({"a"}))]


def test_a_name_given_up_and_wanted_again_is_awaited_anew():
    protocol, outputs = opened(eds={"a", "b"})
    (first,) = timers(outputs)
    protocol.response(ENDPOINT, "1", "n1", ["a", "b"])
    protocol.want(ENDPOINT, {"a"})
    (second,) = timers(protocol.want(ENDPOINT, {"a", "b"}))
    assert second.names == {"b"}
    assert protocol.timeout(first) == []
    assert protocol.timeout(second) == [Missing(ENDPOINT, frozenset({"b"}))]


def test_a_response_for_a_name_given_up_does_not_make_it_known():
    protocol, _ = opened(eds={"a", "b"})
    protocol.want(ENDPOINT, {"a"})
    protocol.response(ENDPOINT, "1", "n1", ["a", "b"])
    assert timers(protocol.want(ENDPOINT, {"a", "b"}))[0].names == {"b"}


def test_changed_names_go_out_with_version_and_nonce():
    protocol, _ = opened(rds={"80"})
    protocol.response(ROUTE, "1", "n1", ["80"])
    assert protocol.want(ROUTE, {"80"}) == []
    assert requests(protocol.want(ROUTE, {"80", "8080"})) == [Request(ROUTE, ("80", "8080"), "1", "n1")]


def test_a_new_stream_forgets_the_nonce_and_keeps_the_version():
    protocol, _ = opened(rds={"80"}, cds=ALL)
    protocol.response(ROUTE, "1", "n1", ["80"])
    protocol.closed()
    assert not protocol.connected
    assert protocol.phase(ROUTE) is Phase.OFFLINE
    protocol.want(ROUTE, {"80", "81"})
    outputs = protocol.opened()
    assert requests(outputs) == [Request(CLUSTER, (), with_node=True), Request(ROUTE, ("80", "81"), "1")]
    assert timers(outputs)[1].names == {"81"}, "what is there already is not awaited"


def test_an_empty_list_never_goes_out_for_named_listeners_or_clusters():
    protocol, _ = opened(lds={"a:80"}, rds={"r"}, cds={"c"})
    assert protocol.want(CLUSTER, set()) == [], "istiod would take it for a wildcard"
    assert requests(protocol.want(ROUTE, set())) == [Request(ROUTE)]


@pytest.mark.parametrize("url", [ENDPOINT, "type.googleapis.com/unknown"])
def test_what_was_not_asked_for_is_ignored(url):
    protocol, _ = opened(cds=ALL)
    assert not protocol.expects(url)
    assert protocol.response(url, "1", "n1", ["a"]) == []


def test_the_table_knows_every_phase_and_the_rest_is_an_error():
    assert {phase for phase, _ in _NEXT} | set(_NEXT.values()) == set(Phase)
    assert all((phase, Input.CLOSE) in _NEXT for phase in Phase if phase is not Phase.OFFLINE)
    protocol, _ = opened()
    with pytest.raises(KeyError):
        protocol.opened()


class Server:
    """A management server's side of one stream, checking what a client must keep to."""

    def __init__(self):
        self.nonces = {}  # type -> nonce of the last response
        self.heard_node = False

    def take(self, request):
        assert request.with_node is not self.heard_node, "the node goes with the first request and no other"
        self.heard_node = True
        assert request.nonce == self.nonces.get(request.type_url, "")
        if request.error:
            assert request.nonce, "a NACK answers something"


NAMES = st.frozensets(st.sampled_from("abcd"), max_size=4)


class Conversation(RuleBasedStateMachine):
    """Whatever the order of wants, responses, losses and timers, the rules hold."""

    @initialize()
    def begin(self):
        self.protocol = AdsProtocol()
        self.server = None
        self.wanted = {url: frozenset() for url in TYPE_URLS}
        self.accepted = dict.fromkeys(TYPE_URLS, "")
        self.had = {url: set() for url in TYPE_URLS}
        self.timers = []
        self.count = 0

    def see(self, outputs):
        for output in outputs:
            if isinstance(output, Request):
                assert self.server is not None, "nothing is sent without a stream"
                self.server.take(output)
                assert output.version == self.accepted[output.type_url]
                assert not set(output.names) - self.wanted[output.type_url] or output.type_url in FULL_STATE
            elif isinstance(output, StartTimer):
                assert self.server is not None
                self.timers.append(output)
            elif isinstance(output, Removed):
                assert output.type_url in FULL_STATE
                assert output.names <= self.had[output.type_url]
                self.had[output.type_url] -= output.names
            else:
                assert output.names <= self.wanted[output.type_url] | {"*"}
                assert self.server is not None, "nothing is missing while the server is away"

    @rule(url=st.sampled_from(TYPE_URLS), names=NAMES, whole=st.booleans())
    def want(self, url, names, whole):
        names = frozenset({"*"}) if whole and url in FULL_STATE else names
        if names or url not in FULL_STATE:
            self.wanted[url] = names
        self.see(self.protocol.want(url, names))

    @precondition(lambda self: self.server is None)
    @rule()
    def open(self):
        self.server = Server()
        self.see(self.protocol.opened())

    @precondition(lambda self: self.server is not None)
    @rule()
    def lose(self):
        self.server = None
        self.see(self.protocol.closed())

    @precondition(lambda self: self.server is not None)
    @rule(url=st.sampled_from(TYPE_URLS), names=NAMES, bad=st.booleans())
    def respond(self, url, names, bad):
        self.count += 1
        asked = self.protocol.expects(url)
        if asked:
            self.server.nonces[url] = f"n{self.count}"
            if not bad:
                self.accepted[url] = f"v{self.count}"
        had = set(self.had[url])
        self.had[url] |= names if asked else set()
        outputs = self.protocol.response(url, f"v{self.count}", f"n{self.count}", names, ["bad"] if bad else [])
        self.see(outputs)
        answers = requests(outputs)
        assert len(answers) == asked
        if asked:
            assert bool(answers[0].error) is bad
        if url not in FULL_STATE:
            assert self.had[url] >= had

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def ring(self, data):
        timer = data.draw(st.sampled_from(self.timers))
        self.see(self.protocol.timeout(timer))
        assert self.protocol.timeout(timer) == []

    @invariant()
    def connected_tells_the_truth(self):
        if hasattr(self, "protocol"):
            assert self.protocol.connected is (self.server is not None)
            for url in TYPE_URLS:
                assert (self.protocol.phase(url) is Phase.OFFLINE) is (self.server is None)
                assert self.protocol.version(url) == self.accepted[url]


Conversation.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestConversation = Conversation.TestCase
