"""The two variants of the ADS protocol, as tables: what goes in, what comes out."""

import itertools
from dataclasses import replace

import pytest

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
    Variant,
)
from meshlib.xds.sotw import SotwProtocol
from meshlib.xds.subscription import NEXT, Input, Phase
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, FULL_STATE, LISTENER, ROUTE, TYPE_URLS

ALL = {"*"}
NDS = "type.googleapis.com/istio.networking.nds.v1.NameTable"
VARIANTS = (SotwProtocol, DeltaProtocol)
both = pytest.mark.parametrize("kind", VARIANTS, ids=lambda kind: kind.variant.name)


def opened(kind, **wants):
    """Return a protocol on an open stream with subscriptions, and what it put out."""
    protocol = kind()
    names = {"cds": CLUSTER, "eds": ENDPOINT, "lds": LISTENER, "rds": ROUTE}
    for key, wanted in wants.items():
        assert protocol.change(names[key], wanted) == [], "nothing goes out without a stream"
    return protocol, protocol.opened()


def good(url, number, *names, **more):
    """Return a response whose resources are all good."""
    versions = dict.fromkeys(names, f"r{number}")
    return Response(url, str(number), f"n{number}", names, versions=more.pop("versions", versions), **more)


def only(kind, outputs):
    return [output for output in outputs if isinstance(output, kind)]


def requests(outputs):
    return [output for output in outputs if isinstance(output, Request | DeltaRequest)]


# The table of phases.

IN_PHASE = {
    # How to come there: the names asked for, then responses, then whether the stream ends.
    Phase.OFFLINE: lambda p: p,
    Phase.IDLE: lambda p: (p.opened(), p)[1],
    Phase.ASKED: lambda p: (p.opened(), p.change(ENDPOINT, {"a"}), p)[2],
    Phase.ACKED: lambda p: (IN_PHASE[Phase.ASKED](p), p.response(good(ENDPOINT, 1, "a")), p)[2],
    Phase.NACKED: lambda p: (IN_PHASE[Phase.ASKED](p), p.response(good(ENDPOINT, 1, "a", faults=["bad"])), p)[2],
}
DO = {
    Input.OPEN: lambda p: p.opened(),
    Input.ASK: lambda p: p.change(ENDPOINT, {"b"}),
    Input.ACCEPT: lambda p: p.response(good(ENDPOINT, 2, "a")),
    Input.REJECT: lambda p: p.response(good(ENDPOINT, 2, "a", faults=["bad"])),
    Input.CLOSE: lambda p: p.closed(),
}


@both
@pytest.mark.parametrize(("phase", "given"), [*itertools.product(Phase, Input)])
def test_every_input_in_every_phase(kind, phase, given):
    protocol = IN_PHASE[phase](kind())
    assert protocol.phase(ENDPOINT) is phase
    if (phase, given) in NEXT:
        DO[given](protocol)
        assert protocol.phase(ENDPOINT) is NEXT[phase, given]
    elif given is Input.OPEN:
        with pytest.raises(KeyError):
            protocol.opened()
    else:  # without a stream nothing is asked, what was not asked for is ignored, and closing is idempotent
        assert DO[given](protocol) == []
        assert protocol.phase(ENDPOINT) is phase


def test_the_table_knows_every_phase():
    assert {phase for phase, _ in NEXT} | set(NEXT.values()) == set(Phase)
    assert all((phase, Input.CLOSE) in NEXT for phase in Phase if phase is not Phase.OFFLINE)
    assert [kind.variant for kind in VARIANTS] == list(Variant)


# A new stream.


@pytest.mark.parametrize(
    ("wants", "sotw", "delta"),
    [
        ({}, [], []),
        ({"lds": ALL}, [Request(LISTENER, with_node=True)], [DeltaRequest(LISTENER, with_node=True)]),
        (
            {"lds": ALL, "cds": ALL},
            [Request(CLUSTER, with_node=True), Request(LISTENER)],
            [DeltaRequest(CLUSTER, with_node=True), DeltaRequest(LISTENER)],
        ),
        (
            {"lds": {"b:80", "a:80"}},
            [Request(LISTENER, ("a:80", "b:80"), with_node=True)],
            [DeltaRequest(LISTENER, ("a:80", "b:80"), with_node=True)],
        ),
        (
            {"eds": {"x"}, "cds": {"*", "c"}},
            [Request(CLUSTER, ("*", "c"), with_node=True), Request(ENDPOINT, ("x",))],
            [DeltaRequest(CLUSTER, ("*", "c"), with_node=True), DeltaRequest(ENDPOINT, ("x",))],
        ),
        ({"eds": set()}, [], []),
        ({"lds": set()}, [], []),
    ],
)
def test_a_new_stream_asks_for_everything_and_sends_the_node_once(wants, sotw, delta):
    for kind, sent in zip(VARIANTS, (sotw, delta), strict=True):
        outputs = opened(kind, **wants)[1]
        assert requests(outputs) == sent
        assert [t.names for t in only(StartTimer, outputs)] == [frozenset(wants[k]) for k in _order(wants)]


def _order(wants):
    return [key for key in ("cds", "eds", "lds", "rds") if wants.get(key)]


def test_sotw_says_the_version_on_a_new_stream_when_all_is_held():
    protocol, _ = opened(SotwProtocol, rds={"80"}, cds=ALL)
    protocol.response(good(ROUTE, 1, "80"))
    protocol.response(good(CLUSTER, 2, "a"))
    protocol.closed()
    assert not protocol.connected
    assert protocol.phase(ROUTE) is Phase.OFFLINE
    assert protocol.opened() == [Request(CLUSTER, version="2", with_node=True), Request(ROUTE, ("80",), "1")]
    protocol.closed()
    protocol.change(ROUTE, {"81"})
    outputs = protocol.opened()
    assert requests(outputs)[1] == Request(ROUTE, ("80", "81")), "a server may take all for known by the version"
    assert only(StartTimer, outputs)[0].names == {"81"}, "what is there already is not awaited"


def test_delta_says_on_a_new_stream_what_it_holds():
    protocol, _ = opened(DeltaProtocol, rds={"80", "81"}, cds=ALL)
    protocol.response(good(ROUTE, 1, "80", versions={"80": ""}))
    protocol.response(good(CLUSTER, 2, "a", "b", "c", versions={"a": "x", "b": ""}, faults=["c is bad"]))
    protocol.closed()
    outputs = protocol.opened()
    assert requests(outputs) == [
        DeltaRequest(CLUSTER, initial_versions={"a": "x", "b": "", "c": ""}, with_node=True),
        DeltaRequest(ROUTE, ("80", "81"), initial_versions={"80": ""}),
    ]
    assert [t.names for t in only(StartTimer, outputs)] == [{"*"}, {"81"}], "CDS was never answered whole"


# ACK and NACK.


@pytest.mark.parametrize(
    ("faults", "sotw", "delta", "phase", "version"),
    [
        ((), Request(CLUSTER, (), "2", "n2"), DeltaRequest(CLUSTER, nonce="n2"), Phase.ACKED, "2"),
        (
            ("CDS a: bad", "CDS b: worse"),
            Request(CLUSTER, (), "1", "n2", "CDS a: bad; CDS b: worse"),
            DeltaRequest(CLUSTER, nonce="n2", error="CDS a: bad; CDS b: worse"),
            Phase.NACKED,
            "1",
        ),
    ],
)
def test_a_response_is_answered_with_its_nonce(faults, sotw, delta, phase, version):
    for kind, answer in zip(VARIANTS, (sotw, delta), strict=True):
        protocol, _ = opened(kind, cds=ALL)
        protocol.response(good(CLUSTER, 1, "a", "b"))
        assert protocol.response(good(CLUSTER, 2, "a", "b", faults=faults)) == [answer]
        assert (protocol.phase(CLUSTER), protocol.version(CLUSTER)) == (phase, version)


def test_after_a_nack_a_good_response_is_acked():
    protocol, _ = opened(SotwProtocol, cds=ALL)
    protocol.response(good(CLUSTER, 1, "a", faults=["bad"]))
    assert protocol.response(good(CLUSTER, 2, "a")) == [Request(CLUSTER, (), "2", "n2")]


def test_a_delta_that_was_refused_leaves_the_version_that_is_in_force():
    protocol, _ = opened(DeltaProtocol, eds={"a"})
    protocol.response(good(ENDPOINT, 1, "a"))
    protocol.response(good(ENDPOINT, 2, "a", versions={}, faults=["a is bad"]))
    protocol.closed()
    assert protocol.opened() == [DeltaRequest(ENDPOINT, ("a",), initial_versions={"a": "r1"}, with_node=True)]


def test_an_ack_goes_out_even_when_nothing_is_wanted_any_more():
    protocol, _ = opened(SotwProtocol, eds={"a"})
    protocol.change(ENDPOINT, gone={"a"})
    assert protocol.response(good(ENDPOINT, 1, "a")) == [Request(ENDPOINT, (), "1", "n1")]
    protocol, _ = opened(DeltaProtocol, eds={"a"})
    protocol.change(ENDPOINT, gone={"a"})
    assert protocol.response(good(ENDPOINT, 1, "a")) == [DeltaRequest(ENDPOINT, nonce="n1")]


@both
def test_the_same_response_twice_is_answered_twice_and_changes_nothing(kind):
    protocol, _ = opened(kind, cds=ALL)
    first = protocol.response(good(CLUSTER, 1, "a", "b"))
    assert protocol.response(good(CLUSTER, 1, "a", "b")) == first


@both
@pytest.mark.parametrize("url", [ENDPOINT, "type.googleapis.com/unknown"])
def test_what_was_not_asked_for_is_ignored(kind, url):
    protocol, _ = opened(kind, cds=ALL)
    assert not protocol.expects(url)
    assert protocol.response(good(url, 1, "a")) == []


# Deletion.


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
def test_absence_is_deletion_in_sotw_lds_and_cds_alone(url, present, complete, removed):
    protocol = SotwProtocol()
    protocol.change(url, ALL if url in FULL_STATE else {"a", "b"})
    protocol.opened()
    protocol.response(good(url, 1, "a", "b"))
    outputs = protocol.response(good(url, 2, *present, complete=complete))
    assert only(Removed, outputs) == ([Removed(url, frozenset(removed))] if removed else [])


@pytest.mark.parametrize("url", TYPE_URLS)
def test_absence_is_nothing_in_delta(url):
    protocol = DeltaProtocol()
    protocol.change(url, {"a", "b"})
    protocol.opened()
    protocol.response(good(url, 1, "a", "b"))
    assert protocol.response(good(url, 2)) == [DeltaRequest(url, nonce="n2")]


@pytest.mark.parametrize("url", TYPE_URLS)
@pytest.mark.parametrize(
    ("wants", "removed", "outputs"),
    [
        ({"a", "b"}, ["a"], (Removed, "a")),
        ({"a", "b"}, ["b"], (Missing, "b")),
        ({"a"}, ["c"], None),
        (ALL, ["a"], (Removed, "a")),
        (ALL, ["c"], None),
        ({"*", "b"}, ["b"], (Missing, "b")),
    ],
)
def test_delta_says_what_is_removed(url, wants, removed, outputs):
    protocol = DeltaProtocol()
    protocol.change(url, wants)
    timers = only(StartTimer, protocol.opened())
    protocol.response(good(url, 1, "a"))
    said = protocol.response(good(url, 2, removed=removed * 2))[1:]
    assert said == ([outputs[0](url, frozenset(outputs[1]))] if outputs else [])
    left = wants - {"a", "*", *removed}
    assert protocol.timeout(timers[0]) == ([Missing(url, frozenset(left))] if left else [])


def test_delta_what_is_there_and_removed_at_once_is_there():
    protocol, _ = opened(DeltaProtocol, eds={"a"})
    faults = ["a is both among the resources and the removed ones"]
    assert len(protocol.response(good(ENDPOINT, 1, "a", removed=["a"], faults=faults))) == 1


def test_a_faulty_resource_is_not_absent():
    protocol, _ = opened(SotwProtocol, cds=ALL)
    protocol.response(good(CLUSTER, 1, "a"))
    assert only(Removed, protocol.response(good(CLUSTER, 2, "a", faults=["bad"]))) == []


@both
def test_what_was_refused_and_then_removed_is_removed(kind):
    protocol, _ = opened(kind, cds=ALL)
    protocol.response(good(CLUSTER, 1, "a", versions={}, faults=["bad"]))
    assert only(Removed, protocol.response(good(CLUSTER, 2, removed=["a"]))) == [Removed(CLUSTER, frozenset("a"))]


# Does not exist.


@both
def test_a_name_that_never_came_is_left_to_its_timer(kind):
    protocol, outputs = opened(kind, lds={"a:80", "b:80"})
    (timer,) = only(StartTimer, outputs)
    assert outputs.index(timer) > 0, "after the request"
    assert timer.names == {"a:80", "b:80"}
    assert len(protocol.response(good(LISTENER, 1, "a:80"))) == 1
    assert protocol.timeout(timer) == [Missing(LISTENER, frozenset({"b:80"}))]
    assert protocol.timeout(timer) == [], "once"
    assert len(protocol.response(good(LISTENER, 2, "a:80", "b:80"))) == 1, "it may come later"
    assert only(Removed, protocol.response(good(LISTENER, 3, "a:80", removed=["b:80"])))


@both
def test_a_refused_resource_exists(kind):
    protocol, outputs = opened(kind, eds={"a"})
    protocol.response(good(ENDPOINT, 1, "a", versions={}, faults=["bad"]))
    assert protocol.timeout(only(StartTimer, outputs)[0]) == []


@both
def test_a_timer_may_be_given_back_in_parts(kind):
    protocol, outputs = opened(kind, eds={"a", "b"})
    (timer,) = only(StartTimer, outputs)
    for name in "ab":
        assert protocol.timeout(replace(timer, names=frozenset(name))) == [Missing(ENDPOINT, frozenset(name))]


@both
def test_a_timer_of_a_lost_stream_says_nothing(kind):
    protocol, outputs = opened(kind, eds={"a"})
    (timer,) = only(StartTimer, outputs)
    protocol.closed()
    assert protocol.timeout(timer) == []
    (again,) = only(StartTimer, protocol.opened())
    assert protocol.timeout(timer) == []
    assert protocol.timeout(again) == [Missing(ENDPOINT, frozenset({"a"}))]


@both
def test_a_name_given_up_is_not_missing(kind):
    protocol, outputs = opened(kind, eds={"a", "b"})
    protocol.change(ENDPOINT, gone={"b"})
    assert protocol.timeout(only(StartTimer, outputs)[0]) == [Missing(ENDPOINT, frozenset("a"))]


@both
def test_a_wildcard_is_awaited_until_it_was_answered_once(kind):
    protocol, outputs = opened(kind, cds=ALL)
    (timer,) = only(StartTimer, outputs)
    assert replace(timer, serial=0) == StartTimer(CLUSTER, frozenset("*"), 0)
    protocol.response(good(CLUSTER, 1))
    assert protocol.timeout(timer) == []
    protocol.closed()
    assert only(StartTimer, protocol.opened()) == [], "a server need not send what is held"


@both
def test_a_wildcard_given_up_and_wanted_again_is_awaited_anew(kind):
    protocol, _ = opened(kind, cds=ALL)
    protocol.response(good(CLUSTER, 1, "a"))
    protocol.change(CLUSTER, {"a"}, ALL)
    assert only(StartTimer, protocol.change(CLUSTER, ALL))[0].names == ALL


@both
def test_a_name_given_up_and_wanted_again_is_awaited_anew(kind):
    protocol, outputs = opened(kind, eds={"a", "b"})
    (first,) = only(StartTimer, outputs)
    protocol.response(good(ENDPOINT, 1, "a", "b"))
    assert protocol.change(ENDPOINT, gone={"b"})[1:] == [Unsubscribed(ENDPOINT, frozenset("b"))]
    (second,) = only(StartTimer, protocol.change(ENDPOINT, {"b"}))
    assert second.names == {"b"}
    assert protocol.timeout(first) == []
    assert protocol.timeout(second) == [Missing(ENDPOINT, frozenset({"b"}))]


@both
def test_a_response_for_a_name_given_up_does_not_make_it_known(kind):
    protocol, _ = opened(kind, eds={"a", "b"})
    protocol.change(ENDPOINT, gone={"b"})
    protocol.response(good(ENDPOINT, 1, "a", "b"))
    assert only(StartTimer, protocol.change(ENDPOINT, {"b"}))[0].names == {"b"}


# Names come and go.


def test_sotw_names_go_out_whole_with_version_and_nonce():
    protocol, _ = opened(SotwProtocol, rds={"80"})
    (ack,) = protocol.response(good(ROUTE, 1, "80"))
    assert protocol.change(ROUTE, {"80"}, {"90"}) == []
    assert protocol.change(ROUTE, {"8080", "1"})[0] == Request(ROUTE, ("1", "80", "8080"), "1", "n1")
    assert protocol.change(ROUTE, {"2"}, {"80", "1"})[0] == Request(ROUTE, ("2", "8080"), "1", "n1")
    assert protocol.change(ROUTE, {"2"}, {"2"}) == [], "what is in both stays"
    (first,) = protocol.response(good(ROUTE, 2, "2"))
    (second,) = protocol.response(good(ROUTE, 3, "2"))
    assert ack.names == ("80",)
    assert first.names is second.names, "so that it is encoded once"
    assert set(protocol.names(ROUTE)) == {"2", "8080"}


def test_delta_names_go_out_without_a_nonce():
    protocol, _ = opened(DeltaProtocol, rds={"80"})
    protocol.response(good(ROUTE, 1, "80"))
    assert protocol.change(ROUTE, {"80"}, {"90"}) == []
    assert protocol.change(ROUTE, {"8080", "1"})[0] == DeltaRequest(ROUTE, ("1", "8080"))
    assert protocol.change(ROUTE, {"2"}, {"80", "1"}) == [
        DeltaRequest(ROUTE, ("2",), ("1", "80")),
        StartTimer(ROUTE, frozenset("2"), 3),
        Unsubscribed(ROUTE, frozenset({"1", "80"})),
    ]
    assert protocol.change(ROUTE, gone={"2", "8080"})[0] == DeltaRequest(ROUTE, (), ("2", "8080"))
    assert protocol.change(ROUTE, {"2"})[0] == DeltaRequest(ROUTE, ("2",)), "nothing is not a wildcard here"


@both
def test_without_a_stream_names_are_only_noted(kind):
    protocol = kind()
    assert protocol.change(ENDPOINT, {"a", "b"}) == []
    assert protocol.change(ENDPOINT, gone={"b"}) == [Unsubscribed(ENDPOINT, frozenset("b"))]
    assert protocol.names(ENDPOINT) == {"a"}


@both
def test_the_first_names_of_a_type_may_come_with_the_stream_open(kind):
    protocol, outputs = opened(kind)
    assert outputs == []
    protocol.change(CLUSTER, ALL)
    (request, timer) = protocol.change(ENDPOINT, {"a"})
    assert request == (Request(ENDPOINT, ("a",)) if kind is SotwProtocol else DeltaRequest(ENDPOINT, ("a",)))
    assert timer.names == {"a"}


# Wildcards.


def test_sotw_an_empty_list_never_goes_out_for_named_listeners_or_clusters():
    protocol, _ = opened(SotwProtocol, lds={"a:80", "b:80"}, rds={"r"})
    protocol.response(good(LISTENER, 1, "a:80", "b:80"))
    assert protocol.change(LISTENER, gone={"a:80", "b:80"}) == [], "istiod would take it for a wildcard"
    assert protocol.change(LISTENER, gone={"a:80"}) == []
    assert protocol.response(good(LISTENER, 2, "b:80")) == [
        Request(LISTENER, ("a:80", "b:80"), "2", "n2"),
        Removed(LISTENER, frozenset({"a:80"})),
    ]
    assert protocol.change(LISTENER, {"b:80"}) == [
        Request(LISTENER, ("b:80",), "2", "n2"),
        Unsubscribed(LISTENER, frozenset({"a:80"})),
    ], "still subscribed to, and so not awaited"
    assert requests(protocol.change(ROUTE, gone={"r"})) == [Request(ROUTE)]


def test_sotw_names_that_lingered_end_with_the_stream():
    protocol, _ = opened(SotwProtocol, cds={"a"})
    protocol.response(good(CLUSTER, 1, "a"))
    assert protocol.change(CLUSTER, gone={"a"}) == []
    assert protocol.change(CLUSTER, {"a"}) == [], "subscribed and known all the time"
    assert protocol.change(CLUSTER, gone={"a"}) == []
    protocol.closed()
    assert protocol.opened() == [Unsubscribed(CLUSTER, frozenset("a"))]
    assert protocol.phase(CLUSTER) is Phase.IDLE
    assert protocol.change(CLUSTER, {"a"})[0] == Request(CLUSTER, ("a",), with_node=True)


@pytest.mark.parametrize(
    ("changes", "sotw", "delta"),
    [
        ([("a", "")], [("*", "a")], [(("a",), ())]),
        ([("a", "*")], [("a",)], [(("*", "a"), ("*",))]),
        ([("a", ""), ("", "*")], [("*", "a"), ("a",)], [(("a",), ()), ((), ("*",))]),
        ([("a", "*"), ("*", "a")], [("a",), ("*",)], [(("*", "a"), ("*",)), (("*",), ("a",))]),
        ([("a", ""), ("", "a")], [("*", "a"), ("*",)], [(("a",), ()), ((), ("a",))]),
        ([("", "*")], [], [(("*",), ("*",))]),
    ],
)
def test_a_wildcard_meets_names(changes, sotw, delta):
    """As "How the client specifies what resources to return" has it; a wildcard alone begins as an empty list."""
    for kind, sent in zip(VARIANTS, (sotw, delta), strict=True):
        protocol, _ = opened(kind, cds=ALL)
        made = [r for added, gone in changes for r in requests(protocol.change(CLUSTER, set(added), set(gone)))]
        if kind is SotwProtocol:
            assert [request.names for request in made] == sent
        else:
            assert [(request.subscribe, request.unsubscribe) for request in made] == sent


@both
def test_with_the_wildcard_goes_what_came_by_it(kind):
    protocol, _ = opened(kind, cds={"*", "a"})
    protocol.response(good(CLUSTER, 1, "a", "b", "c"))
    assert protocol.change(CLUSTER, gone=ALL)[1:] == [Unsubscribed(CLUSTER, frozenset("bc"))]
    assert len(protocol.response(good(CLUSTER, 2, "a", removed=["b"]))) == 1


@both
def test_a_name_beside_the_wildcard_stays_until_the_server_says_that_it_is_not_in_it(kind):
    protocol, _ = opened(kind, cds={"*", "a", "x"})
    protocol.response(good(CLUSTER, 1, "a", "b"))
    assert protocol.change(CLUSTER, gone={"a", "x"})[1:] == [Unsubscribed(CLUSTER, frozenset("x"))]
    assert only(Removed, protocol.response(good(CLUSTER, 2, "b", removed=["a"]))) == [Removed(CLUSTER, frozenset("a"))]


def test_sotw_does_not_claim_a_wildcard_that_may_not_have_been_answered():
    protocol, _ = opened(SotwProtocol, cds={"a"})
    protocol.change(CLUSTER, ALL, {"a"})
    protocol.response(good(CLUSTER, 1, "a"))  # it crossed the request, and answers the name alone
    protocol.closed()
    assert requests(protocol.opened()) == [Request(CLUSTER, with_node=True)]
    protocol.response(good(CLUSTER, 2, "a", "b"))
    protocol.closed()
    assert requests(protocol.opened()) == [Request(CLUSTER, version="2", with_node=True)], "this one was asked first"


# TTL.


@both
def test_a_resource_expires_unless_it_is_heard_of(kind):
    protocol, _ = opened(kind, eds={"a"})
    (_, first) = protocol.response(good(ENDPOINT, 1, "a", ttls={"a": 5.0}))
    assert replace(first, serial=0) == StartTtl(ENDPOINT, "a", 5.0, 0)
    beat = Response(ENDPOINT, "1", "n2", (), versions={"a": "r1"}, ttls={"a": 3.0}, heartbeats=("a",))
    (_, second) = protocol.response(beat)
    assert second.seconds == 3.0
    assert protocol.timeout(first) == [], "a heartbeat started it again"
    protocol.closed()
    assert protocol.timeout(second) == [Removed(ENDPOINT, frozenset("a"))], "with the server away: what TTLs are for"
    assert protocol.timeout(second) == []
    request, timer = protocol.opened()
    assert request.with_node, "and nothing is claimed of it"
    assert not (request.version if kind is SotwProtocol else request.initial_versions)
    assert timer.names == {"a"}


@both
@pytest.mark.parametrize(
    ("then", "expires"),
    [
        (good(ENDPOINT, 2, "a"), False),
        (good(ENDPOINT, 2, "a", versions={}, faults=["bad"]), True),
        (good(ENDPOINT, 2, "b"), True),
        (Response(ENDPOINT, "1", "n2", (), versions={"a": "r1"}, heartbeats=("a",)), False),
        (Response(ENDPOINT, "2", "n2", (), versions={"a": "other"}, ttls={"a": 9.0}, heartbeats=("a",)), True),
    ],
    ids=["without a TTL", "refused", "another", "heartbeat without a TTL", "heartbeat of another version"],
)
def test_what_becomes_of_a_ttl(kind, then, expires):
    protocol, _ = opened(kind, eds={"a", "b"})
    (_, ttl) = protocol.response(good(ENDPOINT, 1, "a", ttls={"a": 5.0}))
    assert only(StartTtl, protocol.response(then)) == []
    assert bool(protocol.timeout(ttl)) is expires


@both
def test_the_ttl_of_a_name_given_up_says_nothing_of_its_successor(kind):
    protocol, _ = opened(kind, eds={"a", "b"})
    (_, ttl) = protocol.response(good(ENDPOINT, 1, "a", ttls={"a": 5.0}))
    protocol.change(ENDPOINT, gone={"a"})
    protocol.change(ENDPOINT, {"a"})
    protocol.response(good(ENDPOINT, 2, "a", faults=["b is bad"]))  # which stops no TTL
    assert protocol.timeout(ttl) == []


@both
def test_the_ttl_of_a_resource_that_was_removed_says_nothing_of_its_successor(kind):
    protocol, _ = opened(kind, cds=ALL)
    (_, ttl) = protocol.response(good(CLUSTER, 1, "a", ttls={"a": 5.0}))
    protocol.response(good(CLUSTER, 2, removed=["a"]))
    protocol.response(good(CLUSTER, 3, "a", faults=["b is bad"]))
    assert protocol.timeout(ttl) == []


def test_a_heartbeat_is_no_absence_and_no_answer():
    protocol, outputs = opened(SotwProtocol, lds={"a", "b"})
    protocol.response(good(LISTENER, 1, "a", ttls={"a": 5.0}))
    beats = Response(LISTENER, "1", "n2", (), ttls={"a": 5.0, "b": 5.0}, heartbeats=("a", "b"))
    assert [type(output) for output in protocol.response(beats)] == [Request, StartTtl]
    assert protocol.timeout(only(StartTimer, outputs)[0]) == [Missing(LISTENER, frozenset("b"))]


def test_an_expired_wildcard_resource_is_not_claimed_by_the_version():
    protocol, _ = opened(SotwProtocol, cds=ALL)
    (_, ttl) = protocol.response(good(CLUSTER, 1, "a", "b", ttls={"a": 5.0}))
    protocol.closed()
    protocol.timeout(ttl)
    assert requests(protocol.opened()) == [Request(CLUSTER, with_node=True)]


# Other types.


@both
def test_types_are_those_it_is_told_of(kind):
    protocol = kind((NDS, CLUSTER), full_state={NDS})
    protocol.change(NDS, ALL)
    protocol.change(CLUSTER, {"a", "b"})
    assert [r.type_url for r in requests(protocol.opened())] == [NDS, CLUSTER]
    for url in (NDS, CLUSTER):
        protocol.response(good(url, 1, "a", "b"))
        removed = only(Removed, protocol.response(good(url, 2, "b")))
        assert bool(removed) is (kind is SotwProtocol and url == NDS)
    with pytest.raises(KeyError):
        protocol.change(LISTENER, {"a"})
