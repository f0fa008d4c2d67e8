"""The last-known-good file: written whole, refused when it is not to be believed, in force until a server answers."""

import logging
import os
import stat
import threading
import time

import pytest
from tenacity.wait import wait_fixed

from meshlib import Mesh
from meshlib.errors import BootstrapError
from meshlib.settings import Identity
from meshlib.xds.bootstrap import for_address, load
from meshlib.xds.client import XdsClient
from meshlib.xds.last_known_good import Kept, Refused, decode, encode
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER
from waiting import TIMEOUT, until

CONTENTS = {CLUSTER: {"a": Kept(b"raw", "1", 5.0)}, LISTENER: {}}


def test_what_is_encoded_is_decoded():
    contents, age = decode(encode("me", 100.0, CONTENTS), "me", 130.0, 60.0)
    assert (contents, age) == (CONTENTS, 30.0)


@pytest.mark.parametrize(
    ("spoil", "node", "now", "said"),
    [
        (lambda d: d[:-1], "me", 130.0, "damaged"),
        (lambda d: d[:40], "me", 130.0, "damaged"),
        (lambda d: d[:-3] + b"x" + d[-2:], "me", 130.0, "damaged"),
        (lambda d: b"", "me", 130.0, "no last-known-good file"),
        (lambda d: b"other" + d, "me", 130.0, "no last-known-good file"),
        (lambda d: d, "you", 130.0, "for the node 'me'"),
        (lambda d: d, "me", 161.0, "61 s old"),
        (lambda d: d, "me", 10.0, "in the future"),
    ],
)
def test_a_file_that_is_not_to_be_believed_is_refused(spoil, node, now, said):
    with pytest.raises(Refused, match=said):
        decode(spoil(encode("me", 100.0, CONTENTS)), node, now, 60.0)


@pytest.fixture
def start(tmp_path):
    clients = []

    def make(address, path=tmp_path / "good", style="sidecar", **options):
        published = []
        if style == "sidecar":
            bootstrap = for_address(address, Identity(workload="webapp", namespace="ns"))
        else:
            server = {"server_uri": address, "channel_creds": [{"type": "insecure"}]}
            bootstrap = load({"xds_servers": [server], "node": {"id": "n"}})
        client = XdsClient(bootstrap, published.append, reconnect=wait_fixed(0.1), last_known_good=path, **options)
        clients.append(client)
        client.start()
        return client, published

    yield make
    for client in clients:
        client.close()


def endpoint(published):
    found = published[-1].clusters.get("catalog")
    return found.assignment.localities[0].endpoints[0].port if found and found.assignment else None


@pytest.fixture
def kept(give, ads_server, start, tmp_path):
    """A file as a client left it; returns its path and the port of the server that is gone."""
    server = give(ads_server(), 1001)
    client, _ = start(server.address)
    until(lambda: (tmp_path / "good").exists())
    client.close()
    server.stop()
    return tmp_path / "good", server.port


def test_it_is_written_for_the_owner_alone_and_only_when_something_changed(give, ads_server, start, tmp_path):
    server = give(ads_server(), 1001)
    start(server.address)
    path = tmp_path / "good"
    until(path.exists)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["good"], "nothing is left over"
    first = path.stat().st_ino
    server.update("2")
    threading.Event().wait(1.5)
    assert path.stat().st_ino == first, "the same again is not written"
    give(server, 1002, "3")
    server.update("3")
    until(lambda: path.stat().st_ino != first)
    assert b"127.0.0.1" in path.read_bytes()


def test_without_a_server_it_is_in_force_and_stale_until_one_answers(kept, give, ads_server, start, caplog):
    path, port = kept
    before = path.read_bytes()
    client, published = start(f"127.0.0.1:{port}")
    until(lambda: published)
    assert endpoint(published) == 1001
    assert client.status.stale
    assert "starting from the last known good configuration" in caplog.text
    threading.Event().wait(1.5)
    assert path.read_bytes() == before, "its age is not renewed by itself"
    server = ads_server(port)
    give(server, 1002, "2")
    until(lambda: not client.status.stale and endpoint(published) == 1002)
    until(lambda: path.read_bytes() != before)


def test_what_the_first_whole_answer_does_not_name_is_gone(give, ads_server, start, tmp_path):
    server = give(give(ads_server(), 1001), 1001, host="orders")
    client, _ = start(server.address)
    until((tmp_path / "good").exists)
    client.close()
    server.stop()
    client, published = start(server.address)
    until(lambda: published and set(published[-1].clusters) == {"catalog", "orders"})
    give(ads_server(server.port), 1001, "2")
    until(lambda: set(published[-1].clusters) == {"catalog"} and not client.status.stale)


def test_what_is_asked_for_by_name_is_found_in_it(give, ads_server, start, tmp_path):
    server = give(ads_server(), 1001)
    client, published = start(server.address, style="grpc")
    client.demand("catalog", 80)
    until(lambda: published and endpoint(published) == 1001)
    until((tmp_path / "good").exists)
    client.close()
    server.stop()
    client, published = start(server.address, style="grpc")
    until(lambda: published)
    client.demand("catalog", 80)
    until(lambda: endpoint(published) == 1001)
    assert client.answered("catalog", 80)
    assert client.status.stale


def test_the_endpoints_of_clusters_in_use_are_in_it(give, ads_server, start, tmp_path):
    server = give(ads_server(), 1001)
    client, published = start(server.address, on_demand=True)
    until(lambda: published)
    client.wake("catalog")
    until(lambda: endpoint(published) == 1001)
    client.close()
    server.stop()
    client, published = start(server.address, on_demand=True)
    until(lambda: published)
    client.wake("catalog")
    until(lambda: endpoint(published) == 1001)


def test_bad_resources_from_a_server_do_not_replace_stale_ones(kept, give, ads_server, start):
    _, port = kept
    client, published = start(f"127.0.0.1:{port}")
    until(lambda: published)
    server = ads_server(port)
    give(server, 1002, "bad")
    bad = server.resources[ENDPOINT]["catalog"].endpoints[0].lb_endpoints[0]
    bad.endpoint.address.socket_address.port_value = 1 << 20
    until(lambda: client.status.faults)
    assert endpoint(published) == 1001
    assert client.status.stale


@pytest.mark.parametrize("spoil", ["damaged", "node", "writable", "pipe", "none"])
def test_a_file_that_is_refused_leaves_the_client_waiting(spoil, kept, give, ads_server, start, caplog):
    caplog.set_level(logging.INFO, "meshlib.xds")
    path, port = kept
    if spoil == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    elif spoil == "writable":
        path.chmod(0o666)
    elif spoil in ("pipe", "none"):
        path.unlink()
        if spoil == "pipe":
            os.mkfifo(path)
    client, published = start(f"127.0.0.1:{port}", style="grpc" if spoil == "node" else "sidecar")
    said = {"damaged": "damaged", "node": "for the node", "writable": "everybody", "pipe": "no regular file"}
    until(lambda: said.get(spoil, "not there yet") in caplog.text)
    assert published == []
    give(ads_server(port), 1002)
    until(lambda: published)
    assert not client.status.stale


def test_a_folder_that_is_not_there_is_said_once_and_loses_nothing(give, ads_server, start, tmp_path, caplog):
    server = give(ads_server(), 1001)
    _, published = start(server.address, path=tmp_path / "absent" / "good")
    until(lambda: "cannot be written" in caplog.text)
    for number in range(2):
        give(server, 1002 + number, f"again-{number}")
        server.update(f"again-{number}")
        until(lambda n=number: endpoint(published) == 1002 + n)
        threading.Event().wait(1.2)
    assert caplog.text.count("cannot be written") == 1


def test_a_mesh_says_that_it_is_stale(give, ads_server, tmp_path):
    server = give(ads_server(), 1001)
    path = tmp_path / "good"
    with Mesh.connect(server.address, workload="webapp", last_known_good=path) as mesh:
        mesh.wait_ready(TIMEOUT)
        assert not mesh.is_stale
    assert path.exists(), "what is due is written at the end"
    server.stop()
    with Mesh.connect(server.address, workload="webapp", last_known_good=str(path)) as mesh:
        mesh.wait_ready(TIMEOUT)
        assert mesh.is_stale
        assert [f.samples[0].value for f in mesh.collector.collect() if f.name == "meshlib_xds_stale"] == [1]
    with Mesh.connect(server.address, workload="webapp", last_known_good=path, last_known_good_age=1e-9) as mesh:
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 0.8)
        assert not mesh.is_ready


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="last_known_good_age"):
        Mesh.connect("127.0.0.1:1", last_known_good="x", last_known_good_age=0)
    static = {"static_resources": {"listeners": [{"name": "one"}]}}
    with pytest.raises(BootstrapError, match="last_known_good"):
        Mesh.from_bootstrap(static, last_known_good="x")
