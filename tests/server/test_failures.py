"""Whatever fails, in whatever layer, the answer is a problem; asked of a real server."""

import json
from typing import Any

import httpx
import pytest

from server.shell_process import Shell
from tintype.server.problems import BY_CODE, KINDS


def problem(answer: httpx.Response) -> dict[str, Any]:
    """Return the problem, once it is one in every respect."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"] == (BY_CODE[body["code"]].type_uri or f"/problems/{body['code']}")
    assert body["title"] == BY_CODE[body["code"]].title
    assert body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_an_error_of_the_model_becomes_its_row(web: httpx.Client, code: str) -> None:
    body = problem(web.get(f"/v1/things/failing/{code}"))
    kind = KINDS[BY_CODE[code]]
    assert (body["code"], body["status"], body["retryable"]) == (code, kind.status, kind.retryable)
    assert (body["detail"], body["instance"]) == ("A sentence.", f"/v1/things/failing/{code}")


def test_an_unknown_path_is_not_found(web: httpx.Client) -> None:
    body = problem(web.get("/v1/nowhere/%3Cb%3E?signature=secret"))
    assert body["code"] == "not_found"
    assert body["instance"] == "/v1/nowhere/%3Cb%3E"
    assert "secret" not in json.dumps(body)


def test_a_method_that_a_path_lacks_is_told_with_those_of_all_its_routes(web: httpx.Client) -> None:
    answer = web.delete("/v1/things")
    assert problem(answer)["code"] == "method_not_allowed"
    assert answer.headers.get_list("allow") == ["GET, HEAD, POST"]


def test_a_bad_parameter_is_named(web: httpx.Client) -> None:
    body = problem(web.get("/v1/things", params={"limit": "many"}))
    assert (body["status"], body["code"]) == (422, "request_invalid")
    (mistake,) = body["errors"]
    assert (mistake["parameter"], mistake["in"], mistake["code"]) == ("limit", "query", "int_parsing")
    assert body["detail"].startswith("`limit`: ")


def test_a_mistake_in_a_body_is_pointed_to(web: httpx.Client) -> None:
    body = problem(web.post("/v1/things", json={"name": "a" * 11, "parts": [1, "x"], "a/b~c": 1}))
    assert {each["pointer"] for each in body["errors"]} == {"#/name", "#/parts/1", "#/a~1b~0c"}
    assert "`errors` has 2 more" in body["detail"]


def test_a_name_that_nothing_has_is_told_in_plain_words(web: httpx.Client) -> None:
    body = problem(web.post("/v1/things", json={"name": "a", "colour": "red"}))
    assert body["detail"] == "`#/colour`: The request has nothing of that name; /docs lists what it has."


def test_what_was_sent_is_not_sent_back(web: httpx.Client) -> None:
    answer = web.post("/v1/things", json={"name": ["hunter2"]})
    assert problem(answer)["code"] == "request_invalid"
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="cut off"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe\x00", id="no UTF-8"),
        pytest.param(b"[" * 900, id="deep"),
        pytest.param(b'{"name": NaN}', id="NaN"),
        pytest.param(b'{"name": "\\ud800"}', id="a lone surrogate"),
        pytest.param(b'{"name": "a", "\\ud800": 1}', id="a lone surrogate for a name"),
        pytest.param(b"null", id="null"),
    ],
)
def test_rubbish_for_json_is_the_client_s_mistake(web: httpx.Client, content: bytes) -> None:
    answer = web.post("/v1/things", content=content, headers={"content-type": "application/json"})
    assert problem(answer)["code"] == "request_invalid"


def test_no_more_mistakes_are_told_than_help(web: httpx.Client) -> None:
    body = problem(web.post("/v1/things", json={"name": "a", "parts": ["x"] * 200}))
    assert len(body["errors"]) == 20


def test_a_json_body_over_the_limit_is_refused_by_its_announced_length(web: httpx.Client) -> None:
    body = problem(web.post("/v1/things", json={"name": "a" * 2000}))
    assert (body["status"], body["code"], body["limit"]) == (413, "body_too_large", 1000)


def test_a_json_body_over_the_limit_is_refused_while_it_comes(web: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    answer = web.post("/v1/things", content=(b" " * 600 for _ in range(3)), headers=headers)
    assert problem(answer)["code"] == "body_too_large"


def test_a_body_that_the_handler_reads_itself_has_no_such_limit(web: httpx.Client) -> None:
    assert web.put("/v1/things/large", content=b"x" * 5000).json() == {"name": "large", "bytes": 5000}


@pytest.mark.parametrize("path", ["/v1/things/defect", "/v1/things/in-middleware"])
def test_a_defect_is_told_to_the_log_and_not_to_the_client(
    web: httpx.Client, shell: Shell, path: str
) -> None:
    answer = web.get(path)
    body = problem(answer)
    assert (body["status"], body["code"]) == (500, "internal")
    assert "swordfish" not in answer.text
    assert "Error" not in answer.text

    lines = shell.lines(body["request_id"])
    defects = [line for line in lines if line["event"] == "request.defect"]
    assert len(defects) == 1
    assert "Traceback" in defects[0]["exception"]
    assert lines[-1]["problem"] == "internal"
    assert "log" not in {line.get("logger") for line in lines}, "told once, not again by the server"


def test_an_exception_of_the_framework_keeps_its_sentence(web: httpx.Client) -> None:
    assert problem(web.get("/v1/things/teapot"))["detail"] == "Short and stout."


def test_waiting_helps_where_it_is_said(web: httpx.Client) -> None:
    answer = web.get("/v1/things/failing/overloaded")
    assert (answer.headers["retry-after"], problem(answer)["retry_after"]) == ("7", 7)


def test_a_client_that_asks_for_json_gets_the_same_members_and_an_error(web: httpx.Client) -> None:
    answer = web.get("/v1/nowhere", headers={"accept": "application/json"})
    assert answer.headers["content-type"] == "application/json"
    assert "accept" in answer.headers["vary"]
    body = answer.json()
    assert body["error"] == body["detail"]
    assert body["code"] == "not_found"


def test_a_browser_gets_a_page_in_which_nothing_runs(web: httpx.Client) -> None:
    answer = web.get("/v1/things/markup", headers={"accept": "text/html,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "&lt;script&gt;" in answer.text
    assert "<script" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-request-id"] in answer.text


def test_an_answer_that_fails_in_its_middle_does_not_look_whole(web: httpx.Client, shell: Shell) -> None:
    with web.stream("GET", "/v1/things/cut") as answer, pytest.raises(httpx.RemoteProtocolError):
        answer.read()
    (line,) = [each for each in shell.lines(answer.headers["x-request-id"]) if each["event"] == "request"]
    assert (line["status"], line["problem"], line["cut"]) == (200, "storage_unavailable", True)


def test_head_has_the_headers_of_get_and_no_body(web: httpx.Client) -> None:
    answer = web.head("/v1/things")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(web.get("/v1/things").content))
    missing = web.head("/v1/nowhere")
    assert (missing.status_code, missing.content) == (404, b"")


def test_an_answer_without_content_has_none(web: httpx.Client) -> None:
    answer = web.get("/v1/things/nothing")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers
