"""Replay of the captured streams: a URL goes where the YAML of the scenario says."""

from pathlib import Path

import pytest

from meshlib.policy.names import names_of
from replays import book, changes, istiod
from replays.replaying import Replay, told

TESTS = Path(__file__).parents[1]
# A selection of the captures, and the folder of all of them, which is not part of the repository.
PLACES = (TESTS / "data" / "xds" / "replay", TESTS.parents[1] / "shared")


def asked(key):
    """Return URL and headers of a table's key."""
    return (key, ()) if isinstance(key, str) else (key[0], key[1:])


@pytest.fixture(scope="session")
def shared(istiod):
    """The folder of all captures, which is not part of the repository."""
    return istiod.parent


@pytest.fixture(scope="session")
def streams():
    """Return the stream of a capture, taken to its end; once a session."""
    taken = {}

    def take(capture):
        paths = (place / f"{capture}.pb" for place in PLACES)
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            pytest.skip(f"no capture {capture}")
        if path not in taken:
            taken[path] = Replay(path).to_end()
        return taken[path]

    return take


TABLES = {f"istiod/{name}": cases for name, cases in istiod.CASES.items()}
TABLES |= {f"istiod-book/{name}": cases for name, cases in book.CASES.items()}


@pytest.mark.parametrize("capture", TABLES)
def test_a_url_goes_where_the_configuration_says(streams, capture):
    stream, expected = streams(capture), TABLES[capture]
    assert {key: told(stream.explain(*asked(key))) for key in expected} == expected


# The deltas of a state are those of the state.
DELTAS = [f"istiod/{name}" for name in (
    "default/sidecar-webapp", "retry/sidecar-webapp", "subsets/sidecar-webapp", "mtls-strict/sidecar-webapp",
    "default/grpc-webapp", "retry/grpc-webapp", "subsets/grpc-webapp", "mtls-strict/grpc-webapp")]  # fmt: skip


@pytest.mark.parametrize("capture", DELTAS)
def test_a_delta_stream_comes_to_the_same(streams, capture):
    # No name table was asked for on these streams: what is passed through goes by name.
    expected = {key: value for key, value in TABLES[capture].items() if "PassthroughCluster = 10.96" not in value}
    stream = streams(f"{capture}.delta")
    assert {key: told(stream.explain(*asked(key))) for key in expected} == expected


@pytest.mark.parametrize("stream", changes.STREAMS)
def test_every_step_of_a_stream_with_changes(shared, stream):
    path = shared / f"{stream}.pb"
    if not path.exists():
        pytest.skip(f"no capture {path}")
    replay, steps = Replay(path), changes.STREAMS[stream]
    assert [step for step in replay.steps() if step != "start"] == [step for step, *_ in steps]
    url = changes.catalog_url(stream)
    for step, targets, others in steps:
        replay.until(step)
        found = replay.explain(url)
        route = f" [{found.timeout:g}s]" if found.timeout else ""
        assert told(found) == changes.catalog_told(stream, targets, route), step
        attribute, value = changes.ATTRIBUTES.get(step, ("", None))
        if isinstance(value, str):
            assert value in getattr(found, attribute), step
        elif attribute:
            assert getattr(found, attribute) == value, step
        for other, expected in others.items() if "sidecar" in stream else ():
            assert told(replay.explain(other)) == expected, step


@pytest.mark.parametrize(
    ("name", "answered"),
    [
        ("00-full-name-with-port", ["catalog.istioinaction.svc.cluster.local:80"]),
        ("01-short-name-with-port", ["catalog:80"]),
        ("02-name.namespace-port", ["catalog.istioinaction:80"]),
        ("03-name.ns.svc-port", ["catalog.istioinaction.svc:80"]),
        ("05-unknown-name", []),
        ("06-unknown-port", []),
        ("07-ip-port", []),
        ("08-known-and-unknown", ["catalog:80"]),
    ],
)
@pytest.mark.parametrize("kind", ["", ".delta"])
def test_a_grpc_listener_goes_by_the_name_it_was_asked_for(streams, kind, name, answered):
    stream = streams(f"istiod/grpc-names/{name}{kind}")
    assert sorted(stream.snapshot.listeners) == answered
    for listener in answered:
        assert stream.explain(f"http://{listener}").listener == listener
    assert told(stream.explain("http://10.96.0.10")) == "nothing"


# ---------------------------------------------------------------- what the way of a URL does not show

CATALOG, FORUM = "http://catalog", "http://forum"


@pytest.mark.parametrize(
    ("capture", "url", "secure"),
    [
        ("default/sidecar-webapp", CATALOG, [True, True]),  # a serviceAccount means Istio's mutual TLS
        ("mtls-strict/sidecar-webapp", CATALOG, [True, True]),
        ("mtls-permissive/sidecar-webapp", FORUM, [True]),
        ("mtls-disable/sidecar-webapp", CATALOG, [False, False]),
        ("plain/sidecar-webapp", CATALOG, [False, False]),
        ("default/grpc-webapp", "http://catalog.istioinaction.svc.cluster.local", [False, False]),
        ("tls-origination/sidecar-webapp", "http://simple.example.com", [True]),
        ("tls-origination/sidecar-webapp", "http://ports.example.com", [True]),  # by way of port 8080
        ("tls-origination/sidecar-webapp", "https://ports.example.com", [False]),  # the application's own
        ("tls-origination/sidecar-webapp", "http://subset.example.com", [False, False]),
        ("tls-origination/sidecar-webapp", "http://tcptls.example.com:6000", [True]),
        ("external-dns/sidecar-webapp", "http://secure.example.com", [True]),
        ("external-dns/sidecar-webapp", "http://api.example.com", [False]),
    ],
)
def test_transport_security(streams, capture, url, secure):
    stream = streams(f"istiod/{capture}")
    (cluster,) = stream.explain(url).clusters
    state = stream.live.clusters[cluster.name]
    state.resolve({name: [f"192.0.2.{i}"] for i, name in enumerate(names_of(state.config))})
    sockets = [state.transport_socket(each.endpoint) for each in state.endpoints.values()]
    assert [socket is not None and socket.secure for socket in sockets] == secure


@pytest.mark.parametrize(
    ("capture", "url", "attribute", "value"),
    [
        ("retry/sidecar-webapp", CATALOG, "retries", "up to 3 after the first attempt, on 5xx, perTryTimeout 2s"),
        ("retry/sidecar-webapp", FORUM, "retries", "up to 2 after the first attempt"),
        ("retry-mesh-default/sidecar-webapp", CATALOG, "retries",
         "up to 1 after the first attempt, on 5xx, perTryTimeout 1s"),
        ("envoyfilter/sidecar-webapp", CATALOG, "retries", "(400,408)"),
        ("retry/sidecar-webapp", CATALOG, "source", "virtual-service/catalog"),
        ("fault/sidecar-webapp", CATALOG, "fault", "delay 0.25s for 12.5%, abort with 429 for 0.1%"),
        ("sniffed/sidecar-webapp", "https://auto:7070", "notes", "HTTP policies"),
        ("default/sidecar-webapp", "http://catalogg", "notes", "did you mean"),
        ("subset-missing/sidecar-webapp", CATALOG, "notes", "does not exist: NC, 503"),
        ("registry-only/sidecar-webapp", "https://example.com", "notes", "has no endpoints: UH, 503"),
        ("gateway-tls/router-ingress", "https://webapp.example:8443", "notes",
         "reads HTTP and cannot read TLS of the application's own"),
    ],
)  # fmt: skip
def test_what_an_explanation_says_besides(streams, capture, url, attribute, value):
    found = getattr(streams(f"istiod/{capture}").explain(url), attribute)
    assert value in (found if isinstance(found, str) else "\n".join(found))


def test_a_headless_host_names_all_its_addresses(streams):
    found = streams("istiod-book/k8s-headless/sidecar-webapp").explain("http://headless:7001")
    assert "headless has the addresses 10.244.3.1, 10.244.3.2; one is drawn a call" in found.notes
    assert found.listener in ("10.244.3.1_7001", "10.244.3.2_7001")
    assert not [note for note in found.notes if "no service has this name" in note]


# ---------------------------------------------------------------- nothing is left out

# Scenarios whose streams serve no client's calls, each with what tests them.
ELSEWHERE = {
    "bad-node": "refused streams: nothing was sent",
    "debug": "no stream",
    "analyze": "no stream",
    "ch11-resources-600": "samples only",
    "own-600-services": "samples only",
    "grpc-names": "above",
    **dict.fromkeys(("changes-sidecar", "changes-sidecar-delta", "changes-grpc", "changes-grpc-delta", "k8s-changes"),
                    "above, step by step"),
}  # fmt: skip


def test_every_scenario_is_looked_at(shared):
    scenarios = {path.name for each in ("istiod", "istiod-book") for path in (shared / each).glob("*/")}
    seen = {capture.split("/")[1] for capture in TABLES} | ELSEWHERE.keys()
    assert {name for name in scenarios if not name.endswith((".md", ".json"))} - seen == set()
