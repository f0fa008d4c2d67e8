"""The TTL of a name, asked of a real nameserver on UDP."""

import contextlib
import socket
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.lookups import system_resolver
from meshlib.lookups import ttl as ttls
from meshlib.lookups.ttl import nameservers, query, ttl_in, ttl_of
from meshlib.model.discovery import LookupFamily

A, CNAME, AAAA, TXT = 1, 5, 28, 16


def record(kind, ttl, data):
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def answering(question, *records, flags=0x8180):
    """Return a response to a question."""
    return question[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question[12:] + b"".join(records)


@contextlib.contextmanager
def nameserver(answer):
    """Serve ``answer(question) -> response or None`` by UDP; yields its address and the questions asked."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    asked = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                question, client = sock.recvfrom(4096)
                if not question:
                    return
                asked.append(question)
                response = answer(question)
                if response is not None:
                    sock.sendto(response, client)

    thread = threading.Thread(target=serve)
    thread.start()
    address = sock.getsockname()
    try:
        yield address, asked
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", address)
        thread.join(5)
        sock.close()


V4, V6 = bytes([10, 0, 0, 1]), bytes(16)


@pytest.mark.parametrize(
    ("records", "flags", "expected"),
    [
        ([record(A, 30, V4)], 0x8180, 30.0),
        ([record(A, 30, V4), record(A, 20, V4)], 0x8180, 20.0),
        ([record(CNAME, 5, b"\xc0\x0c"), record(AAAA, 60, V6)], 0x8180, 5.0),
        ([record(TXT, 1, b"\1x"), record(A, 30, V4)], 0x8180, 30.0),
        ([record(CNAME, 5, b"\xc0\x0c")], 0x8180, None),
        ([], 0x8180, None),
        ([record(A, 30, V4)], 0x8183, None),  # NXDOMAIN
        ([record(A, 30, V4)], 0x0100, None),  # no response
    ],
)
def test_what_a_server_tells(records, flags, expected):
    with nameserver(lambda question: answering(question, *records, flags=flags)) as (address, asked):
        assert ttl_of("a.example", v6=False, servers=[address]) == expected
    assert asked[0][12:] == b"\x01a\x07example\0\0\x01\0\x01"


def test_the_family_asked_for():
    with nameserver(lambda question: answering(question, record(AAAA, 9, V6))) as (address, asked):
        assert ttl_of("a.example.", v6=True, servers=[address]) == 9.0
    assert asked[0].endswith(b"\x01a\x07example\0\0\x1c\0\x01")


def test_a_server_that_is_silent_or_out_of_step_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(ttls, "_PATIENCE", 0.1)
    with nameserver(lambda _question: None) as (silent, _):
        began = time.monotonic()
        assert ttl_of("a.example", v6=False, servers=[silent, silent]) is None
        assert time.monotonic() - began < 5
    with nameserver(lambda question: b"\0\0" + answering(question, record(A, 3, V4))[2:]) as (other, _):
        assert ttl_of("a.example", v6=False, servers=[other]) in (None, 3.0)  # 1 in 65536 numbers is 0


def test_the_next_server_is_asked_where_one_refuses():
    with nameserver(lambda question: answering(question, record(A, 7, V4))) as (address, _):
        assert ttl_of("a.example", v6=False, servers=[("127.0.0.1", 1), address]) == 7.0


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64, "a." + "é" * 70])
def test_what_cannot_be_asked_for(name):
    with pytest.raises(ValueError):  # noqa: PT011  whoever says it
        query(1, name, v6=False)
    assert ttl_of(name, v6=False, servers=[("127.0.0.1", 1)]) is None


@given(st.binary(max_size=80), st.integers(0, 80))
def test_no_bytes_break_it(data, cut):
    message = answering(query(0, "a.example", v6=False), record(A, 3, V4))
    ttl_in(data, 0)
    ttl_in(b"\0\0\x81\x80" + data, 0)
    ttl_in(message[:cut] + data, 0)


def test_whom_the_system_asks(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.1\nnameserver\nnameserver ::1 # it\n")
    assert nameservers(str(path)) == [("10.0.0.1", 53), ("::1", 53)]
    assert nameservers(str(tmp_path / "none")) == []


def test_it_is_part_of_the_answer_where_it_is_wanted(monkeypatch):
    with nameserver(lambda question: answering(question, record(A, 11, V4))) as (address, asked):
        monkeypatch.setattr(ttls, "nameservers", lambda: [address])
        assert system_resolver("localhost", LookupFamily.V4_ONLY, False).ttl is None
        assert not asked
        assert system_resolver("localhost", LookupFamily.V4_ONLY, True) == (("127.0.0.1",), 11.0, "")
