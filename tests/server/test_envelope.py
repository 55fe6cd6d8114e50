"""What every request has in common; asked of a real server."""

import re

import httpx

from server.shell_process import Shell


def test_every_answer_has_an_id_of_ours(web: httpx.Client) -> None:
    ids = {web.get("/v1/things").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_a_client_s_id_is_noted_and_never_becomes_ours(web: httpx.Client, shell: Shell) -> None:
    answer = web.get("/v1/things", headers={"x-request-id": "order-7"})
    assert answer.headers.get_list("x-request-id") != ["order-7"]
    (line,) = shell.lines(answer.headers["x-request-id"])
    assert line["client_request_id"] == "order-7"


def test_a_client_s_id_that_could_forge_a_line_is_not_noted(web: httpx.Client, shell: Shell) -> None:
    for forged in (b"a b", b"x" * 129, b'"},{"', "ä".encode()):
        answer = web.get("/v1/things", headers=[(b"x-request-id", forged)])
        (line,) = shell.lines(answer.headers["x-request-id"])
        assert "client_request_id" not in line


def test_a_request_is_one_line_without_its_path_and_query(web: httpx.Client, shell: Shell) -> None:
    answer = web.put("/v1/things/holiday.jpg?signature=secret", content=b"x" * 5000)
    (line,) = shell.lines(answer.headers["x-request-id"])
    expected = {
        "event": "request",
        "level": "info",
        "method": "PUT",
        "route": "/v1/things/{name}",
        "status": 200,
        "bytes_in": 5000,
        "bytes_out": len(answer.content),
    }
    assert line | expected == line
    assert line["duration_ms"] > 0
    assert "holiday" not in str(line)
    assert "secret" not in str(line)


def test_a_refusal_is_told_with_its_code(web: httpx.Client, shell: Shell) -> None:
    answer = web.get("/v1/things/failing/storage_unavailable")
    (line,) = shell.lines(answer.headers["x-request-id"])
    assert (line["level"], line["problem"]) == ("warning", "storage_unavailable")


def test_requests_are_counted_by_the_route_s_template(web: httpx.Client) -> None:
    web.put("/v1/things/one", content=b"1")
    web.put("/v1/things/two", content=b"2")
    web.get("/v1/a-path-of-a-stranger")
    counts = web.get("/v1/things/metrics").text
    assert 'tintype_requests_total{method="PUT",route="/v1/things/{name}",status="200"}' in counts
    assert 'tintype_requests_total{method="GET",route="unmatched",status="404"}' in counts
    assert 'tintype_request_seconds_count{method="PUT",route="/v1/things/{name}"}' in counts
    assert "stranger" not in counts


def test_answers_are_kept_by_nobody_and_taken_for_what_they_are(web: httpx.Client) -> None:
    headers = web.get("/v1/things").headers
    assert headers["cache-control"] == "private, no-cache"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_a_handler_s_own_headers_stand(web: httpx.Client) -> None:
    headers = web.get("/v1/things/cached").headers
    assert headers.get_list("cache-control") == ["public, max-age=60"]
    assert headers.get_list("x-content-type-options") == ["nosniff"]
