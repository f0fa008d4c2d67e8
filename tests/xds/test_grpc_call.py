"""One gRPC call without a socket, against h2's server side."""

import gzip
import itertools

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, SettingsFrame
from hypothesis import given
from hypothesis import strategies as st

from meshlib.errors import BootstrapError
from meshlib.xds.frames import STREAM, Data, Frames, GoAway, NotHttp2
from meshlib.xds.grpc_call import Ended, GrpcCall

MIB = 1024 * 1024
OK = [(":status", "200"), ("content-type", "application/grpc+proto")]


def framed(message, compressed=0):
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


class Peer:
    """A call and the server that it is made to."""

    def __init__(self, metadata=(), settings=None):
        self.call = GrpcCall("/s/m", "host", "http", metadata)
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.server.initiate_connection()
        if settings:
            self.server.update_settings(settings)
        self.seen = []
        self.exchange()

    def exchange(self):
        """Carry bytes both ways until neither has any."""
        while True:
            ours, theirs = self.call.outgoing(), self.server.data_to_send()
            if not ours and not theirs:
                return
            self.seen += self.server.receive_data(ours)
            self.call.receive(memoryview(theirs))

    def respond(self, headers=OK, data=b"", trailers=None):
        """Answer, as far as flow control permits; returns what it does not."""
        if headers:
            self.server.send_headers(STREAM, headers, end_stream=not data and trailers is None)
        while data and (room := self.server.local_flow_control_window(STREAM)):
            part = data[: min(room, self.server.max_outbound_frame_size)]
            self.server.send_data(STREAM, part)
            data = data[len(part) :]
            self.exchange()
        if trailers is not None:
            self.server.send_headers(STREAM, trailers, end_stream=True)
        self.exchange()
        return data

    def of(self, kind):
        return [event for event in self.seen if isinstance(event, kind)]


def test_the_call_s_head():
    peer = Peer(metadata=[("X-Tenant", "one"), ("key-bin", "\u00e9")])
    (request,) = peer.of(h2.events.RequestReceived)
    headers = dict(request.headers)
    assert headers.pop("user-agent").startswith("grpc-python-meshlib/")
    assert headers == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/s/m",
        ":authority": "host",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity,gzip",
        "x-tenant": "one",
        "key-bin": "w6k",
    }


@pytest.mark.parametrize(
    "metadata", [("a b", ""), ("", ""), (":path", "/"), ("te", "x"), ("Host", "x"), ("a", "SECRET\n"), ("a", "\u00e9")]
)
def test_what_is_no_metadata(metadata):
    with pytest.raises(BootstrapError, match="metadata: ") as caught:
        GrpcCall("/s/m", "host", "http", [metadata])
    assert "SECRET" not in str(caught.value)


def test_messages_go_out_as_the_server_s_windows_permit():
    peer = Peer(settings={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    assert peer.call.ready
    peer.call.send(b"0123456789")
    peer.call.send(b"more")
    peer.exchange()
    received = b"".join(event.data for event in peer.of(h2.events.DataReceived))
    assert received == framed(b"0123456789")[:10]
    peer.server.increment_flow_control_window(100, STREAM)
    peer.exchange()
    received = b"".join(event.data for event in peer.of(h2.events.DataReceived))
    assert received == framed(b"0123456789") + framed(b"more")


def test_messages_come_in_whatever_pieces():
    peer = Peer()
    first, second = framed(b"one"), framed(b"")
    peer.respond(data=first[:3])
    assert peer.call.next_message() is None
    peer.respond(headers=None, data=first[3:] + second[:1])
    assert peer.call.next_message() == b"one"
    assert peer.call.next_message() is None
    peer.respond(headers=None, data=second[1:], trailers=[("grpc-status", "0")])
    assert peer.call.ended == Ended("OK")
    assert peer.call.next_message() == b""
    assert peer.call.next_message() is None


def test_a_message_larger_than_the_window():
    peer = Peer()
    message = bytes(40 * MIB)
    left = framed(message)
    headers = OK
    while left:
        left = peer.respond(headers, left)
        headers = None
        got = peer.call.next_message()
        assert (got is None) == bool(left)
        peer.exchange()
    assert got == message


def test_a_window_and_no_more_comes_before_its_turn():
    peer = Peer()
    message = framed(bytes(MIB))
    left = peer.respond(data=message * 40)
    assert 40 * len(message) - len(left) == 16 * MIB
    taken = 0
    while left or len(peer.call._received):
        assert peer.call.next_message() == bytes(MIB)
        taken += 1
        peer.exchange()
        left = peer.respond(None, left) if left else b""
        assert len(peer.call._received) <= 16 * MIB
    assert taken == 40


def test_gzip():
    peer = Peer()
    zipped = gzip.compress(b"large" * 1000)
    peer.respond([*OK, ("grpc-encoding", "gzip")], framed(zipped, 1) + framed(b"plain"))
    assert peer.call.next_message() == b"large" * 1000
    assert peer.call.next_message() == b"plain"


@pytest.mark.parametrize(
    ("data", "encoding", "code"),
    [
        (framed(b"no gzip", 1), "gzip", "INTERNAL"),
        (framed(gzip.compress(b"cut short")[:-3], 1), "gzip", "INTERNAL"),
        (framed(gzip.compress(b"x") * 2, 1), "gzip", "INTERNAL"),
        (framed(b"x", 1), "identity", "INTERNAL"),
        (framed(b"x", 1), "snappy", "INTERNAL"),
        (framed(b"x", 2), "gzip", "INTERNAL"),
        (b"\0\xff\xff\xff\xff", "identity", "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_is_no_message_ends_the_call(data, encoding, code):
    peer = Peer()
    peer.respond([*OK, ("grpc-encoding", encoding)], data)
    assert peer.call.next_message() is None
    assert peer.call.ended.code == code
    peer.exchange()
    assert peer.of(h2.events.StreamReset)[0].error_code == ErrorCodes.CANCEL


@pytest.mark.parametrize(
    ("headers", "trailers", "ended"),
    [
        (OK, [("grpc-status", "0")], Ended("OK")),
        (
            OK,
            [("grpc-status", "7"), ("grpc-message", "not%20you%3A %E2%82%AC%")],
            Ended("PERMISSION_DENIED", "not you: €%"),
        ),
        (OK, [("grpc-status", "99"), ("grpc-message", "odd")], Ended("UNKNOWN", "odd")),
        (OK, [("grpc-status", "x")], Ended("UNKNOWN")),
        (OK, [("x", "y")], Ended("UNKNOWN")),
        (OK, None, Ended("INTERNAL", "the server ended the stream without a status")),
        ([*OK, ("grpc-status", "12"), ("grpc-message", "no")], None, Ended("UNIMPLEMENTED", "no")),
        ([(":status", "503"), ("grpc-status", "16")], None, Ended("UNAUTHENTICATED")),
        ([(":status", "400")], None, Ended("INTERNAL", "the server answered with HTTP status 400")),
        ([(":status", "401")], None, Ended("UNAUTHENTICATED", "the server answered with HTTP status 401")),
        ([(":status", "403")], None, Ended("PERMISSION_DENIED", "the server answered with HTTP status 403")),
        ([(":status", "404")], None, Ended("UNIMPLEMENTED", "the server answered with HTTP status 404")),
        ([(":status", "503")], None, Ended("UNAVAILABLE", "the server answered with HTTP status 503")),
        ([(":status", "302")], None, Ended("UNKNOWN", "the server answered with HTTP status 302")),
        (
            [(":status", "200"), ("content-type", "text/html")],
            None,
            Ended("UNKNOWN", "the server answered with content-type text/html, which is not gRPC"),
        ),
    ],
)
def test_how_a_call_ends(headers, trailers, ended):
    peer = Peer()
    peer.respond(headers, trailers=trailers)
    assert peer.call.ended == ended


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ErrorCodes.NO_ERROR, "INTERNAL"),
        (ErrorCodes.REFUSED_STREAM, "UNAVAILABLE"),
        (ErrorCodes.CANCEL, "CANCELLED"),
        (ErrorCodes.ENHANCE_YOUR_CALM, "RESOURCE_EXHAUSTED"),
        (ErrorCodes.INADEQUATE_SECURITY, "PERMISSION_DENIED"),
        (0xFF, "INTERNAL"),
    ],
)
def test_a_reset(error, code):
    peer = Peer()
    peer.server.reset_stream(STREAM, error)
    peer.exchange()
    assert peer.call.ended.code == code


def goaway(last, code=0, debug=b""):
    return memoryview(GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=debug).serialize())


def test_after_a_graceful_goaway_the_call_goes_on():
    peer = Peer()
    peer.call.receive(goaway(2**31 - 1))
    peer.call.receive(goaway(STREAM))
    peer.server.ping(b"12345678")  # as gRPC's servers do between the two
    peer.call.send(b"still here")
    peer.respond(data=framed(b"so am I"))
    assert peer.of(h2.events.PingAckReceived)
    assert peer.of(h2.events.DataReceived)[0].data == framed(b"still here")
    assert peer.call.next_message() == b"so am I"
    assert peer.call.ended is None
    peer.respond(None, trailers=[("grpc-status", "0")])
    assert peer.call.ended == Ended("OK")


def test_a_goaway_that_leaves_the_call_out():
    peer = Peer()
    peer.call.receive(goaway(0, ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings"))
    assert peer.call.ended == Ended("UNAVAILABLE", "GOAWAY ENHANCE_YOUR_CALM: too_many_pings")
    assert peer.call.goaway.too_many_pings


def test_a_connection_lost():
    peer = Peer()
    peer.call.lost("reset")
    assert peer.call.ended == Ended("UNAVAILABLE", "reset")
    peer = Peer()
    peer.call.receive(goaway(STREAM, 0, b"max_age"))
    peer.call.lost("reset")
    assert peer.call.ended == Ended("UNAVAILABLE", "reset (GOAWAY NO_ERROR: max_age)")


def test_more_than_the_window_is_an_error():
    peer = Peer()
    frame = DataFrame(STREAM, data=bytes(MIB)).serialize()
    for _ in range(17):
        peer.call.receive(memoryview(frame))
    assert peer.call.ended.code == "INTERNAL"
    assert "more data than the window" in peer.call.ended.details


def test_cancelling():
    peer = Peer()
    peer.call.cancel()
    peer.exchange()
    assert peer.of(h2.events.StreamReset)[0].error_code == ErrorCodes.CANCEL
    assert peer.of(h2.events.ConnectionTerminated)
    assert peer.call.ended == Ended("CANCELLED")


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x01\0\x02\x02\x16", b"SSH-2.0-OpenSSH"])
def test_other_protocols(first):
    call = GrpcCall("/s/m", "host", "http", ())
    with pytest.raises(NotHttp2) as caught:  # noqa: PT012  some are too short to be judged at once
        call.receive(memoryview(first))
        call.lost("closed")
    assert first.startswith(caught.value.first)


PADDED = DataFrame(STREAM, data=b"padded", flags=["PADDED"], pad_length=9)
FRAMES = st.one_of(
    st.binary(max_size=30).map(lambda data: DataFrame(STREAM, data=data)),
    st.just(PADDED),
    st.binary(max_size=20).map(lambda debug: GoAwayFrame(0, last_stream_id=STREAM, additional_data=debug)),
    st.just(PingFrame(0, opaque_data=b"12345678")),
    st.just(DataFrame(3, data=b"of another")),
)


@given(st.lists(FRAMES, max_size=8), st.booleans(), st.lists(st.integers(0, 300), max_size=12))
def test_bytes_are_parted_alike_however_they_are_cut(frames, ends, cuts):
    frames = [SettingsFrame(0), *frames]
    if ends:
        frames.append(DataFrame(STREAM, data=b"last", flags=["END_STREAM"]))
    data = b"".join(frame.serialize() for frame in frames)
    at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    splitter = Frames()
    found = []
    for start, end in itertools.pairwise(at):
        # What is handed out is used before the buffer is filled anew.
        found += [
            (bytes(part.content), part.size) if isinstance(part, Data) else part
            for part in splitter.feed(memoryview(data[start:end]))
        ]
    ours = [frame for frame in frames if isinstance(frame, DataFrame) and frame.stream_id == STREAM]
    assert b"".join(part[0] for part in found if isinstance(part, tuple)) == b"".join(frame.data for frame in ours)
    assert sum(part[1] for part in found if isinstance(part, tuple)) == sum(f.flow_controlled_length for f in ours)
    debugs = [frame.additional_data for frame in frames if isinstance(frame, GoAwayFrame)]
    assert [part.debug for part in found if isinstance(part, GoAway)] == debugs
    rest = [f.serialize() for f in frames if f not in ours and not isinstance(f, GoAwayFrame)]
    if ends:
        rest.append(DataFrame(STREAM, flags=["END_STREAM"]).serialize())
    assert b"".join(part for part in found if isinstance(part, bytes)) == b"".join(rest)
