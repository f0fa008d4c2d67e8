"""Framing: RFC 9112 as tables, and the same verdict as h11 on responses cut anywhere."""

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshlib.upstream.http11.framing import (
    MAX_HEAD_BYTES,
    BadRequest,
    FramingError,
    Phase,
    ResponseReader,
    Truncated,
    encode_chunk,
    encode_head,
)


def read(
    data: bytes, method: bytes = b"GET", *, step: int = 1 << 20, eof: bool = False
) -> tuple[ResponseReader, bytes]:
    reader = ResponseReader(method)
    body = b""
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        body += reader.take()
    if eof:
        reader.feed_eof()
    return reader, body + reader.take()


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
OLD = b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
COMPLETE = [
    pytest.param(b"GET", OK + b"Content-Length: 3\r\n\r\nabc", b"abc", True, id="content-length"),
    pytest.param(b"GET", OK + b"Content-Length: 0\r\n\r\n", b"", True, id="empty"),
    pytest.param(b"HEAD", OK + b"Content-Length: 3\r\n\r\n", b"", True, id="HEAD has no body"),
    pytest.param(b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"", True, id="204"),
    pytest.param(
        b"GET", b"HTTP/1.1 204 N\r\nContent-Length: 9\r\n\r\n", b"", True, id="204 with a length all the same"
    ),
    pytest.param(b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", b"", True, id="304"),
    pytest.param(b"GET", CHUNKED + b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n", b"abcde", True, id="chunked"),
    pytest.param(b"GET", OK + b"Content-Length: 1\r\nConnection: close\r\n\r\nx", b"x", False, id="close"),
    pytest.param(b"GET", OLD + b"\r\nx", b"x", False, id="HTTP/1.0"),
    pytest.param(
        b"GET",
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx",
        b"x",
        True,
        id="1.0 keep-alive",
    ),
    pytest.param(b"GET", CONTINUE + OK + b"Content-Length: 1\r\n\r\nx", b"x", True, id="after 100"),
]


@pytest.mark.parametrize("step", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize(("method", "data", "body", "keep_alive"), COMPLETE)
def test_a_complete_response_reads_alike_however_it_is_cut(method, data, body, keep_alive, step):
    reader, got = read(data, method, step=step)
    assert (reader.phase, got, reader.keep_alive) == (Phase.DONE, body, keep_alive)


@pytest.mark.parametrize(("method", "data", "body", "keep_alive"), COMPLETE)
def test_bytes_after_the_end_spoil_the_connection(method, data, body, keep_alive):
    reader, got = read(data + b"HTTP/1.1 200 OK\r\n\r\n", method)
    assert (got, reader.keep_alive) == (body, False)


REFUSED = {
    "both lengths": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
    "list of lengths": OK + b"Content-Length: 3, 3\r\n\r\n",
    "signed length": OK + b"Content-Length: +3\r\n\r\n",
    "folded header": OK + b"A: b\r\n c\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nA: b\n\n",
    "space in a name": OK + b"A b: c\r\n\r\n",
    "space before the colon": OK + b"A : c\r\n\r\n",
    "NUL in a value": OK + b"A: b\0c\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "coding other than chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "bad chunk size": CHUNKED + b"xyz\r\n",
    "chunk without its line break": CHUNKED + b"3\r\nabcd\r\n",
    "head too large": OK + b"A: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
    "head without end": OK + b"A: " + b"x" * MAX_HEAD_BYTES,
    "too many headers": OK + b"A: b\r\n" * 101 + b"\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_no_server_may_send_is_refused(data, step):
    with pytest.raises(FramingError):
        read(data, step=step)


def test_a_body_until_the_connection_closes_ends_there():
    reader, body = read(OK + b"\r\nabc", eof=True)
    assert (reader.phase, body, reader.keep_alive) == (Phase.DONE, b"abc", False)


@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 200", OK + b"Content-Length: 3\r\n\r\nab", CHUNKED + b"3\r\nab", CHUNKED + b"0\r\n"]
)
def test_a_connection_that_ends_too_early_is_told_apart(data):
    with pytest.raises(Truncated):
        read(data, eof=True)


def test_trailers_and_interim_responses_are_kept():
    data = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + CHUNKED + b"0\r\nGrpc-Status: 0\r\n\r\n"
    reader, _ = read(data)
    assert (reader.interim, reader.trailers) == ([103], [(b"Grpc-Status", b"0")])
    assert reader.headers == [(b"Transfer-Encoding", b"chunked")]


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"GET", b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        (b"CONNECT", OK + b"\r\n"),
    ],
)
def test_an_upgraded_connection_hands_its_first_bytes_over(method, head):
    reader, body = read(head + b"frame", method)
    assert (reader.phase, body, reader.surplus, reader.keep_alive) == (Phase.UPGRADED, b"", b"frame", False)


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        (b"GE T", b"/", []),
        (b"GET", b"/a b", []),
        (b"GET", b"", []),
        (b"GET", b"/\r\nHost: x", []),
        (b"GET", b"/", [(b"a b", b"c")]),
        (b"GET", b"/", [(b"a", b"b\r\nc: d")]),
        (b"GET", b"/", [(b"a", b"b\0")]),
    ],
)
def test_a_request_that_could_speak_for_two_is_not_written(method, target, headers):
    with pytest.raises(BadRequest):
        encode_head(method, target, headers)


def test_an_empty_chunk_does_not_end_the_body():
    assert encode_chunk(b"") == b""
    assert encode_chunk(b"x" * 17) == b"11\r\n" + b"x" * 17 + b"\r\n"


bodies = st.binary(max_size=40)
names = st.sampled_from([b"X-A", b"Server", b"Content-Type", b"X-Long-Name"])
values = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=12).map(str.encode)


@st.composite
def responses(draw) -> bytes:
    head = OK + b"".join(b"%s: %s\r\n" % pair for pair in draw(st.lists(st.tuples(names, values), max_size=4)))
    match draw(st.sampled_from(["length", "chunked", "close"])):
        case "length":
            body = draw(bodies)
            return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        case "chunked":
            parts = [part for part in draw(st.lists(bodies, max_size=4)) if part]
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(map(encode_chunk, parts)) + b"0\r\n\r\n"
        case _:
            return head + b"\r\n" + draw(bodies)


def by_h11(data: bytes, eof: bool) -> tuple[bytes, str]:
    """Body and end of a response as h11 reads it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    if data:  # to h11 no bytes mean the end
        connection.receive_data(data)
    body = b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if not eof:
                    return body, "more"
                eof = False
                connection.receive_data(b"")
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return body, "done"
            elif isinstance(event, h11.ConnectionClosed):
                return body, "error"
    except h11.RemoteProtocolError:
        return body, "error"


def by_us(data: bytes, eof: bool, step: int) -> tuple[bytes, str]:
    reader, body = ResponseReader(b"GET"), b""
    try:
        for start in range(0, len(data), step):
            reader.feed(data[start : start + step])
            body += reader.take()
        if eof:
            reader.feed_eof()
    except FramingError:
        return body, "error"
    return body, "done" if reader.complete else "more"


@settings(max_examples=400, deadline=None)
@given(data=responses(), cut=st.integers(0, 200), eof=st.booleans(), step=st.integers(1, 64))
@example(data=OK + b"\r\nabc", cut=0, eof=True, step=1)
def test_cut_anywhere_h11_says_the_same(data, cut, eof, step):
    data = data[: max(0, len(data) - cut)]
    assert by_us(data, eof, step) == by_h11(data, eof)


@settings(max_examples=400, deadline=None)
@given(data=responses(), at=st.integers(0, 120), to=st.integers(0, 255), step=st.integers(1, 64))
def test_a_flipped_byte_never_makes_a_response_out_of_what_h11_refuses(data, at, to, step):
    """h11 forgives some things (bare LF, folding); we never accept more than it does."""
    at %= max(1, len(data))
    data = data[:at] + bytes([to]) + data[at + 1 :]
    body, verdict = by_us(data, True, step)
    theirs = by_h11(data, True)
    if verdict == "done" and theirs[1] == "done":
        assert body == theirs[0]
    if theirs[1] == "error":
        assert verdict != "done"
