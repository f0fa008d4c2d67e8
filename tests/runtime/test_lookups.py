"""DNS clusters at work: real calls, real servers on 127.0.0.0/8, a resolver that answers as told."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import textwrap
import threading
import time

import anyio
import httpx
import pytest

from meshlib import errors
from meshlib.explain import explain
from meshlib.lookups import Answer, Lookups, system_resolver
from meshlib.lookups.threads import THREADS
from meshlib.model.discovery import Discovery, LookupFamily
from meshlib.runtime import keeper
from meshlib.transports.httpx_async import AsyncMeshTransport
from meshlib.transports.httpx_sync import MeshTransport
from policy.snapshots import request
from runtime.handmade import HandmadeSource
from runtime.upkept import AUTO, Zone, eventually, named_cluster, serving, threads, upkept
from transports.snapshots import route, static_snapshot

LOGICAL = Discovery.LOGICAL_DNS


def snapshot_of(*clusters, **action):
    return static_snapshot(clusters=clusters, routes=[route("c", **action)])


@contextlib.contextmanager
def client_of(mesh, **options):
    with httpx.Client(transport=MeshTransport(mesh), **{"timeout": 10.0, **options}) as client:
        try:
            yield client
        finally:
            mesh.close()


@pytest.fixture
def servers():
    """Two servers on one port, at 127.0.9.1 and 127.0.9.2."""
    with serving("127.0.9.1", "127.0.9.2") as pair:
        yield pair[0]


def test_a_call_waits_for_the_first_answer_and_meets_all_addresses(servers):
    zone = Zone(a_test=["127.0.9.1", "127.0.9.2"])
    mesh = upkept(snapshot_of(named_cluster("a.test", port=servers.port)), zone)
    with client_of(mesh) as client:
        met = {client.get("http://svc/").text for _ in range(10)}
    assert met == {"127.0.9.1", "127.0.9.2"}
    assert zone.asked[0] == ("a.test", AUTO)


def test_it_is_looked_up_again_and_addresses_come_and_go(servers):
    zone = Zone(a_test=["127.0.9.1"])
    mesh = upkept(snapshot_of(named_cluster("a.test", port=servers.port, refresh=0.02)), zone)
    with client_of(mesh) as client:
        assert client.get("http://svc/").text == "127.0.9.1"
        zone.names["a.test"] = ["127.0.9.2"]
        eventually(lambda: client.get("http://svc/").text == "127.0.9.2")
        assert {client.get("http://svc/").text for _ in range(10)} == {"127.0.9.2"}


def test_a_failure_keeps_the_last_addresses(servers, caplog):
    zone = Zone(a_test=["127.0.9.1"])
    mesh = upkept(snapshot_of(named_cluster("a.test", port=servers.port, refresh=0.02)), zone)
    with client_of(mesh) as client:
        client.get("http://svc/")
        zone.names["a.test"] = OSError("the resolver is down")
        eventually(lambda: "look-up failed: the resolver is down" in caplog.text)
        assert client.get("http://svc/").text == "127.0.9.1"
        zone.names["a.test"] = ["127.0.9.2"]
        eventually(lambda: client.get("http://svc/").text == "127.0.9.2")


@pytest.mark.parametrize(
    ("answer", "said"),
    [((), "it has no address"), (OSError("no such luck"), "no such luck"), (ValueError("x"), "ValueError: x")],
)
def test_a_name_that_comes_to_nothing(answer, said):
    mesh = upkept(snapshot_of(named_cluster("a.test", port=1)), Zone(a_test=answer))
    with client_of(mesh) as client, pytest.raises(errors.NoHealthyUpstream) as caught:
        client.get("http://svc/")
    assert f"'a.test' is not resolved: {said}" in str(caught.value)
    assert caught.value.record.response_flags == "UH"


class TestAHungResolver:
    """It never answers: calls end by their own deadlines."""

    @pytest.fixture
    def zone(self):
        zone = Zone()
        zone.gate = threading.Event()
        yield zone
        zone.gate.set()

    def test_the_application_s_timeout(self, zone):
        mesh = upkept(snapshot_of(named_cluster("a.test", port=1)), zone)
        began = time.monotonic()
        with client_of(mesh, timeout=0.2) as client, pytest.raises(httpx.ReadTimeout):
            client.get("http://svc/")
        assert time.monotonic() - began < 5

    def test_the_route_s_timeout(self, zone):
        mesh = upkept(snapshot_of(named_cluster("a.test", port=1), timeout=0.2), zone)
        with client_of(mesh) as client, pytest.raises(errors.RouteTimeout) as caught:
            client.get("http://svc/")
        assert caught.value.record.response_flags == "UT"

    def test_async_too_and_the_loop_goes_on(self, zone):
        mesh = upkept(snapshot_of(named_cluster("a.test", port=1)), zone)

        async def main():
            ticks = 0
            async with httpx.AsyncClient(transport=AsyncMeshTransport(mesh), timeout=0.3) as client:

                async def call():
                    with pytest.raises(httpx.ReadTimeout):
                        await client.get("http://svc/")

                calls = [asyncio.create_task(call()) for _ in range(20)]
                while not all(task.done() for task in calls):
                    ticks += 1
                    await anyio.sleep(0.01)
            return ticks

        try:
            assert asyncio.run(main()) > 5
        finally:
            mesh.close()

    def test_a_look_up_has_a_timeout_of_its_own(self, zone, monkeypatch):
        monkeypatch.setattr(keeper, "LOOKUP_TIMEOUT", 0.1)
        mesh = upkept(snapshot_of(named_cluster("a.test", port=1)), zone)
        with client_of(mesh) as client, pytest.raises(errors.NoHealthyUpstream, match=r"did not answer within 0\.1s"):
            client.get("http://svc/")

    def test_who_need_not_wait_does_not(self, zone):
        mesh = upkept(snapshot_of(named_cluster("a.test", port=1, wait_for_warm=False)), zone)
        with (
            client_of(mesh) as client,
            pytest.raises(errors.NoHealthyUpstream, match=r"there is no answer yet|looked up by the first call"),
        ):
            client.get("http://svc/")

    def test_threads_are_few_and_a_name_under_way_is_not_asked_again(self, zone):
        lookups, told = Lookups(zone), []
        for n in range(3 * THREADS):
            for _ in range(2):
                lookups.ask(f"n{n}", AUTO, told.append)
        eventually(lambda: len(zone.asked) == THREADS)
        time.sleep(0.1)
        assert len(zone.asked) == THREADS
        zone.gate.set()
        eventually(lambda: len(told) == 6 * THREADS)
        assert len(zone.asked) == 3 * THREADS


def test_a_hung_resolver_does_not_keep_the_process_from_ending():
    program = textwrap.dedent(
        """
        import socket, time, httpx
        socket.getaddrinfo = lambda *a, **k: time.sleep(600)
        import meshlib
        ep = {"endpoint": {"address": {"socket_address": {"address": "a.test", "port_value": 80}}}}
        cluster = {"name": "c", "type": "STRICT_DNS",
                   "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [ep]}]}}
        hosts = [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}]
        hcm = {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
                        ".HttpConnectionManager", "route_config": {"virtual_hosts": hosts}, "stat_prefix": "x"}
        listener = {"name": "l", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
                    "filter_chains": [{"filters": [{"name": "h", "typed_config": hcm}]}]}
        mesh = meshlib.Mesh.from_bootstrap({"static_resources": {"clusters": [cluster], "listeners": [listener]}})
        try:
            httpx.Client(transport=mesh.transport(), timeout=0.3).get("http://svc/")
        except httpx.ReadTimeout:
            print("late")
        """
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.returncode) == ("late\n", 0), ran.stderr


class TestLogical:
    def test_new_connections_go_to_the_first_address_and_old_ones_stay(self, servers):
        zone = Zone(a_test=["127.0.9.1", "127.0.9.2"])
        mesh = upkept(snapshot_of(named_cluster("a.test", port=servers.port, discovery=LOGICAL, refresh=0.02)), zone)
        with client_of(mesh) as client:
            assert client.get("http://svc/").text == "127.0.9.1"
            zone.names["a.test"] = ["127.0.9.2", "127.0.9.1"]
            state = mesh.store.current.clusters["c"]
            eventually(lambda: next(iter(state.endpoints.values())).endpoint.resolved == "127.0.9.2")
            assert client.get("http://svc/").text == "127.0.9.1", "the connection stands"
            assert client.get("http://svc/", headers={"connection": "close"}).text == "127.0.9.1"
            response = client.get("http://svc/")
            assert response.text == "127.0.9.2", "a new one"
            assert str(response.extensions["meshlib"].endpoint) == f"127.0.9.2:{servers.port}"

    def test_that_the_name_is_gone_changes_nothing(self, servers):
        zone = Zone(a_test=["127.0.9.1"])
        mesh = upkept(snapshot_of(named_cluster("a.test", port=servers.port, discovery=LOGICAL, refresh=0.01)), zone)
        with client_of(mesh) as client:
            assert client.get("http://svc/").text == "127.0.9.1"
            zone.names["a.test"] = []
            asked = len(zone.asked)
            eventually(lambda: len(zone.asked) > asked + 2)
            assert client.get("http://svc/", headers={"connection": "close"}).text == "127.0.9.1"
            assert client.get("http://svc/").text == "127.0.9.1"

    def test_async(self, servers):
        zone = Zone(a_test=["127.0.9.1"])
        mesh = upkept(snapshot_of(named_cluster("a.test", port=servers.port, discovery=LOGICAL, refresh=0.02)), zone)

        async def main():
            async with httpx.AsyncClient(transport=AsyncMeshTransport(mesh), timeout=10) as client:
                assert (await client.get("http://svc/")).text == "127.0.9.1"
                zone.names["a.test"] = ["127.0.9.2"]
                state = mesh.store.current.clusters["c"]
                there = lambda: next(iter(state.endpoints.values())).endpoint.resolved == "127.0.9.2"  # noqa: E731  said once
                await anyio.to_thread.run_sync(eventually, there)
                assert (await client.get("http://svc/", headers={"connection": "close"})).text == "127.0.9.1"
                assert (await client.get("http://svc/")).text == "127.0.9.2"

        try:
            asyncio.run(main())
        finally:
            mesh.close()


def test_several_event_loops_and_threads_share_one_answer(servers):
    zone = Zone(a_test=["127.0.9.1"])
    mesh = upkept(snapshot_of(named_cluster("a.test", port=servers.port)), zone)
    met = []

    async def call():
        async with httpx.AsyncClient(transport=AsyncMeshTransport(mesh), timeout=10) as client:
            met.append((await client.get("http://svc/")).text)

    workers = [threading.Thread(target=lambda: asyncio.run(call())) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    mesh.close()
    assert met == ["127.0.9.1"] * 4
    assert len(zone.asked) == 1


def test_nothing_runs_where_nothing_is_called_and_it_ends_after_a_rest(servers, monkeypatch):
    monkeypatch.setattr(keeper, "RESTING", 0.3)
    zone = Zone(a_test=["127.0.9.1"])
    mesh = upkept(snapshot_of(named_cluster("a.test", port=servers.port, refresh=0.02)), zone)
    mesh.start()
    assert (threads("meshlib-upkeep"), zone.asked) == ([], [])
    with client_of(mesh) as client:
        client.get("http://svc/")
        assert threads("meshlib-upkeep") == ["meshlib-upkeep"]
        eventually(lambda: not threads("meshlib-upkeep"))
        asked = len(zone.asked)
        time.sleep(0.1)
        assert len(zone.asked) == asked
        zone.names["a.test"] = ["127.0.9.2"]
        assert client.get("http://svc/").text == "127.0.9.2", "the next call begins anew"
    eventually(lambda: not threads("meshlib-upkeep"))


def test_closing_ends_the_thread_and_wakes_who_waits():
    zone = Zone()
    zone.gate = threading.Event()
    mesh = upkept(snapshot_of(named_cluster("a.test", port=1)), zone)
    client = httpx.Client(transport=MeshTransport(mesh), timeout=10.0)
    met = []

    def call():
        try:
            client.get("http://svc/")
        except errors.MeshError as error:
            met.append(type(error).__name__)

    caller = threading.Thread(target=call)
    caller.start()
    eventually(lambda: zone.asked)
    mesh.close()
    caller.join(5)
    zone.gate.set()
    assert met == ["NoHealthyUpstream"]
    eventually(lambda: not threads("meshlib-upkeep"))


def test_a_new_configuration_brings_new_names_and_clusters_that_go_are_not_looked_up(servers):
    zone = Zone(a_test=["127.0.9.1"], b_test=["127.0.9.2"])
    source = HandmadeSource(snapshot_of(named_cluster("a.test", port=servers.port, refresh=0.02)))
    mesh = upkept(source, zone)
    with client_of(mesh) as client:
        assert client.get("http://svc/").text == "127.0.9.1"
        source.publish(snapshot_of(named_cluster("b.test", port=servers.port, refresh=0.02)))
        eventually(lambda: zone.asked[-1][0] == "b.test")
        eventually(lambda: mesh.store.current.clusters["c"].endpoints)
        assert client.get("http://svc/").text == "127.0.9.2"
        source.publish(snapshot_of())
        eventually(lambda: not threads("meshlib-upkeep"))


class TestTheSystem:
    @pytest.mark.parametrize(
        ("family", "expected"),
        [
            (LookupFamily.V4_ONLY, ["10.0.0.4"]),
            (LookupFamily.V6_ONLY, ["::6"]),
            (LookupFamily.AUTO, ["::6"]),
            (LookupFamily.V4_PREFERRED, ["10.0.0.4"]),
            (LookupFamily.ALL, ["::6", "10.0.0.4"]),
        ],
    )
    def test_families(self, family, expected, monkeypatch):
        answers = {socket.AF_INET6: ["::6"], socket.AF_INET: ["10.0.0.4"]}
        monkeypatch.setattr(socket, "getaddrinfo", self.answering(answers))
        assert system_resolver("a.test", family, False) == Answer(tuple(expected))

    @pytest.mark.parametrize(
        ("family", "there", "expected"),
        [
            (LookupFamily.AUTO, socket.AF_INET, ("10.0.0.4",)),
            (LookupFamily.V4_PREFERRED, socket.AF_INET6, ("::6",)),
            (LookupFamily.V4_ONLY, socket.AF_INET6, ()),
        ],
    )
    def test_what_stands_in_for_a_family_that_is_missing(self, family, there, expected, monkeypatch):
        answers = {there: ["10.0.0.4" if there == socket.AF_INET else "::6"]}
        monkeypatch.setattr(socket, "getaddrinfo", self.answering(answers))
        assert system_resolver("a.test", family, False).addresses == expected

    def test_a_resolver_that_fails_is_no_name_that_does_not_exist(self, monkeypatch):
        def fail(*_args):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with pytest.raises(OSError, match="Temporary failure"):
            system_resolver("a.test", LookupFamily.AUTO, False)

    def test_localhost(self):
        assert system_resolver("localhost", LookupFamily.V4_ONLY, False).addresses == ("127.0.0.1",)

    def test_what_cannot_be_a_name(self):
        with pytest.raises(OSError, match="cannot be a host name"):
            system_resolver("a" * 70 + ".test", LookupFamily.V4_ONLY, False)

    @staticmethod
    def answering(answers):
        def getaddrinfo(_name, _port, family, kind):
            assert kind == socket.SOCK_STREAM
            found = [(f, a) for f, all_ in answers.items() for a in all_ if family in (f, socket.AF_UNSPEC)]
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            # Each twice, as a resolver with several protocols gives them.
            return [(f, kind, 6, "", (a, 0)) for f, a in found for _ in range(2)]

        return getaddrinfo


def test_ipv6():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        with serving("::1") as (one,):
            mesh = upkept(snapshot_of(named_cluster("a.test", port=one.port)), Zone(a_test=["::1"]))
            with client_of(mesh) as client:
                assert client.get("http://svc/").text == "::1"
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_explain_tells_what_becomes_of_names(servers):
    zone = Zone(a_test=["127.0.9.1"])
    mesh = upkept(snapshot_of(named_cluster("a.test", "b.test", port=servers.port)), zone)
    view = request(host="svc")
    mesh.start()

    def endpoints():
        (cluster,) = explain(mesh.store.current, view, mesh.chance).clusters
        return [(each.address, each.health, each.workload) for each in cluster.endpoints]

    port = servers.port
    assert endpoints() == [
        (f"{name}:{port}", "UNKNOWN", "looked up by the first call") for name in ("a.test", "b.test")
    ]
    with client_of(mesh) as client:
        client.get("http://svc/")
        assert endpoints() == [(f"127.0.9.1:{port}", "UNKNOWN", "")]
