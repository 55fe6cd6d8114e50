"""What arrives before and after a request; spoken byte by byte to a real server."""

import contextlib
import json
import socket
import time
from itertools import pairwise
from typing import Any

import pytest

from server.shell_process import Shell
from tintype.server.connection import MAX_HEAD_BYTES

ORDINARY = b"GET /v1/things HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"GET /v1/things/slow HTTP/1.1\r\nHost: x\r\n\r\n"


def split(answer: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return the status, the headers and the JSON of the one answer that came."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    assert len(body) == int(headers["content-length"])
    return int(first.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"hello\r\n\r\n", id="no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="a path that is no ASCII"),
        pytest.param(b"GET / HTTP/1.1\r\nHost x\r\n\r\n", id="a field without a colon"),
        pytest.param(b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", id="another version"),
        pytest.param(b"PUT /v1/things/a HTTP/1.1\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(
            b"PUT /v1/things/a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="two framings",
        ),
        pytest.param(
            b"PUT /v1/things/a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            id="two lengths",
        ),
        pytest.param(
            b"PUT /v1/things/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
            id="a chunk of length zz",
        ),
    ],
)
def test_what_is_no_http_is_answered_with_a_problem(shell: Shell, rubbish: bytes) -> None:
    status, headers, body = split(shell.speak(rubbish))
    assert (status, body["status"], body["code"]) == (400, 400, "http_invalid")
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"] == body["request_id"]
    (line,) = shell.lines(body["request_id"])
    assert (line["event"], line["problem"]) == ("request.refused", "http_invalid")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="the target"),
        pytest.param(b"GET / HTTP/1.1\r\nX-Long: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", id="one field"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"X-Many: b\r\n" * (MAX_HEAD_BYTES // 7 + 1) + b"\r\n", id="many fields"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nX-Endless: " + b"a" * 20 * MAX_HEAD_BYTES, id="a field without an end"
        ),
    ],
)
def test_a_head_of_any_length_is_not_kept(shell: Shell, head: bytes) -> None:
    status, _, body = split(shell.speak(head))
    assert (status, body["code"], body["limit"]) == (431, "head_too_large", MAX_HEAD_BYTES)


@pytest.mark.parametrize("rest", [b"0\r\nX-Trailer: ", b"1;extension="])
def test_a_body_s_framing_of_any_length_is_not_kept(shell: Shell, rest: bytes) -> None:
    head = b"PUT /v1/things/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    status, _, body = split(shell.speak(head + rest + b"a" * 20 * MAX_HEAD_BYTES))
    assert (status, body["code"]) == (400, "http_invalid")


def test_a_head_within_the_limit_is_taken(shell: Shell) -> None:
    long = (
        b"GET /v1/things HTTP/1.1\r\nConnection: close\r\nX-Long: "
        + b"a" * (MAX_HEAD_BYTES - 200)
        + b"\r\n\r\n"
    )
    assert split(shell.speak(long[:9000], long[9000:]))[0] == 200


def test_a_whole_request_is_answered_though_rubbish_follows_it(shell: Shell) -> None:
    status, headers, body = split(shell.speak(SLOW + b"rubbish\r\n\r\n"))
    assert (status, body) == (200, {"answer": "after a while"})
    assert headers["connection"] == "close"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        pytest.param(b"Content-Length: 11", b"hello there", id="a length"),
        pytest.param(b"Transfer-Encoding: chunked", b"5\r\nhello\r\n6\r\n there\r\n0\r\n\r\n", id="chunks"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_an_upload_that_offers_http_2_is_taken_in_http_1(
    shell: Shell, framing: bytes, body: bytes, pieces: int
) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n"
    upload = b"PUT /v1/things/a HTTP/1.1\r\nHost: x\r\n" + offer + framing + b"\r\n\r\n" + body
    last = b"GET /v1/things HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    whole = upload + ORDINARY.replace(b"\r\n\r\n", b"\r\n" + offer + b"\r\n") + upload + last
    cuts = [len(upload) - 4, 2 * len(upload)][: pieces - 1]
    edges = [0, *cuts, len(whole)]
    answer = shell.speak(*(whole[start:end] for start, end in pairwise(edges)))
    assert answer.count(b'{"name":"a","bytes":11}') == 2
    assert answer.count(b'{"limit":1}') == 2


def test_requests_in_a_row_are_answered_in_their_order(shell: Shell) -> None:
    last = ORDINARY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = shell.speak(SLOW + ORDINARY + last)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.index(b"after a while") < answer.index(b'{"limit":1}')


def test_a_body_after_its_refusal_is_read_so_that_the_refusal_is_seen(shell: Shell) -> None:
    head = b"POST /v1/things HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shell.port), timeout=10) as connection:
        connection.sendall(head + b" " * 3_000_000 + ORDINARY)
        received = b""
        while b'{"limit":1}' not in received:
            received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"GET /v1/things HTTP/1.1\r\nHost:"], id="half a head"),
        pytest.param([ORDINARY, b"GET /v1/"], id="half a head after a request"),
    ],
)
def test_a_head_that_does_not_come_is_not_waited_for(shell: Shell, pieces: list[bytes]) -> None:
    assert shell.speak(*pieces).count(b"HTTP/1.1") == len(pieces[1:])


def test_the_rest_of_a_refused_body_is_not_waited_for(shell: Shell) -> None:
    head = b"POST /v1/things HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n"
    assert shell.speak(head + b"{").startswith(b"HTTP/1.1 413")


def test_a_json_body_that_trickles_is_cut(shell: Shell) -> None:
    head = b"POST /v1/things HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n"
    status, _, body = split(shell.speak(head + b"{"))
    assert (status, body["code"]) == (400, "upload_incomplete")


MB = 1024 * 1024
ENDLESS = b"GET /v1/things/endless HTTP/1.1\r\nHost: x\r\n\r\n"


def ask_for_the_endless(shell: Shell) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", shell.port))
    connection.sendall(ENDLESS)
    return connection


def taken(connection: socket.socket, most: int) -> int:
    """Take what comes, up to so many bytes or the end, and return how many there were."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while count < most and (piece := connection.recv(1024 * 1024)):
            count += len(piece)
    return count


def test_a_client_that_takes_nothing_of_its_answer_is_cut(shell: Shell) -> None:
    with ask_for_the_endless(shell) as connection:
        time.sleep(2)
        assert taken(connection, most=64 * MB) < 64 * MB  # no more than what the kernel had taken already


def test_a_client_that_takes_its_answer_slowly_is_served(shell: Shell) -> None:
    with ask_for_the_endless(shell) as connection:
        for _ in range(40):
            time.sleep(0.05)
            assert connection.recv(64 * 1024)
        assert taken(connection, most=64 * MB) >= 64 * MB
