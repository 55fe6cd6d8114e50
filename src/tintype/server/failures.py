"""Failures become answers: every exception, from every layer, is a problem in the form that was asked for."""

import html
import json
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import quote

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from tintype.model import errors
from tintype.model.errors import TintypeError
from tintype.server.methods import Methods
from tintype.server.problems import MEDIA_TYPE, problem_body
from tintype.telemetry import get_logger

PLAIN_ERRORS = "plain_errors"
"""In a request's state: who asks for no form in particular is told one line, which clients show as it is."""
MAX_ERRORS = 20
"""Mistakes of one request that are told; a hostile body could hold thousands."""

_BY_STATUS: dict[int, type[TintypeError]] = {
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    408: errors.UploadIncomplete,
    413: errors.BodyTooLarge,
    416: errors.RangeNotSatisfiable,
    431: errors.HeadTooLarge,
    503: errors.Overloaded,
}
_KEPT = ("allow", "retry-after", "www-authenticate")
"""Headers of the framework's own exceptions that mean something to a client."""

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")  # RFC 9110, section 12.4.2

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }}
code {{ font-size: 0.9em }}
:root {{ color-scheme: light dark }}
</style>
<h1>{title}</h1>
{body}
</html>
"""
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def answer(scope: Scope, error: TintypeError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer that tells `error`, and note the error for the request's line in the log."""
    state: dict[str, Any] = scope.setdefault("state", {})
    state["problem"] = error
    body = problem_body(
        error,
        instance=quote(scope["path"], safe="/:@!$&'()*+,;=~"),
        request_id=state.get("request_id"),
    )
    form = preferred(_header(scope, b"accept"))
    common = {"cache-control": "no-store", "vary": "accept"} | _headers_of(error) | dict(headers or {})
    if form == "html":
        return html_page(error.title, _paragraphs(body), body["status"], common)
    if form == "problem" and state.get(PLAIN_ERRORS) and MEDIA_TYPE not in _header(scope, b"accept"):
        return Response(f"{error.code}: {error}\n", body["status"], common, "text/plain")
    if form == "json":
        return Response(_dumps(body | {"error": body["detail"]}), body["status"], common, "application/json")
    return Response(_dumps(body), body["status"], common, MEDIA_TYPE)


def preferred(accept: str) -> str:
    """Return the form of errors that a client asks for: `problem`, `json` or `html`.

    Only what `Accept` names counts: `*/*` asks for nothing in particular and gets a problem.
    """
    wanted = {MEDIA_TYPE: "problem", "application/json": "json", "text/html": "html"}
    best, form = 0.0, "problem"
    for each in accept.lower().split(","):
        name, _, parameters = each.partition(";")
        quality = _quality(parameters)
        if name.strip() in wanted and quality > best:
            best, form = quality, wanted[name.strip()]
    return form


def html_page(title: str, body: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a small page. `body` is HTML already; `title` is not."""
    page = _PAGE.format(title=html.escape(title), body=body)
    return Response(page, status, {"content-security-policy": PAGE_POLICY} | dict(headers or {}), "text/html")


def as_html(sentence: str) -> str:
    """Return a sentence as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(sentence))


async def on_error(request: Request, error: Exception) -> Response:
    """Answer a failure in the model's own words."""
    if not isinstance(error, TintypeError):
        raise TypeError(f"{type(error)} is none of ours")
    return answer(request.scope, error)


async def on_disconnect(request: Request, _error: Exception) -> Response:
    """Give a client that has gone an answer for the log; nobody reads it."""
    return answer(
        request.scope, errors.UploadIncomplete("The connection ended before the request was whole.")
    )


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an exception of the framework: 404, 405, and what it raises about bodies."""
    if not isinstance(error, HTTPException):
        raise TypeError(f"{type(error)} is none of the framework's")
    if isinstance(error.__cause__, TintypeError):  # raised by us while the framework read the body
        return answer(request.scope, error.__cause__)
    if isinstance(error.__cause__, ClientDisconnect):
        return await on_disconnect(request, error.__cause__)
    kept = {name.lower(): value for name, value in (error.headers or {}).items() if name.lower() in _KEPT}
    if error.status_code == 405:  # noqa: PLR2004 # the framework names the methods of one route only
        methods: Methods = request.app.state.methods
        kept["allow"] = methods.allowed(request.scope["path"])
    return answer(request.scope, _translated(request, error, kept), kept)


async def on_invalid(request: Request, error: Exception) -> Response:
    """Answer parameters or a body that do not fit their description, naming each mistake."""
    if not isinstance(error, RequestValidationError):
        raise TypeError(f"{type(error)} is no validation error")
    mistakes = [_mistake(each) for each in error.errors()[:MAX_ERRORS]]
    first = mistakes[0]
    where = first.get("parameter") or first.get("pointer")
    detail = f"`{where}`: {first['detail']}."
    if len(mistakes) > 1:
        detail += f" `errors` has {len(mistakes) - 1} more."
    return answer(request.scope, errors.RequestInvalid(detail, details={"errors": mistakes}))


async def on_defect(request: Request, error: Exception) -> Response:
    """Answer a defect of ours: everything to the log, nothing of it to the client."""
    return answer(request.scope, defect(error))


def defect(error: Exception) -> TintypeError:
    """Log an exception that nobody foresaw, with its traceback, and return what the client is told."""
    get_logger().error("request.defect", exc_info=error)
    internal = errors.Internal("The request failed by a defect of Tintype. Give the operator the request id.")
    internal.__cause__ = error
    return internal


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    TintypeError: on_error,
    HTTPException: on_http_exception,
    RequestValidationError: on_invalid,
    ClientDisconnect: on_disconnect,
    Exception: on_defect,
}


def _translated(request: Request, error: HTTPException, kept: Mapping[str, str]) -> TintypeError:
    path = _text(request.scope["path"])
    if error.status_code == 404:  # noqa: PLR2004
        return errors.NotFound(f"There is nothing at {path}. /docs lists what there is.")
    if error.status_code == 405:  # noqa: PLR2004
        return errors.MethodNotAllowed(
            f"{request.method} is not possible at {path}. It takes {kept['allow']}."
        )
    if error.status_code >= 500 and error.status_code not in _BY_STATUS:  # noqa: PLR2004
        return defect(error)
    if error.status_code == 400:  # noqa: PLR2004 # FastAPI's word for a body that is not JSON
        return errors.RequestInvalid("The body cannot be read. Send JSON in UTF-8, as /docs describes it.")
    return _BY_STATUS.get(error.status_code, errors.RequestInvalid)(str(error.detail))


def _mistake(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return one validation error: where (RFC 9457's `pointer` for bodies), a code, a sentence.

    What was sent is not repeated: it may be long, secret, or no valid text.
    """
    place, *path = [_text(part) for part in raw["loc"]] or ["body"]
    mistake = {"code": str(raw["type"]), "detail": _text(raw["msg"])}
    if raw["type"] == "json_invalid":
        return {
            "pointer": "#",
            **mistake,
            "detail": f"Not JSON, at character {path[0]}: {raw['ctx']['error']}",
        }
    if raw["type"] == "extra_forbidden":
        mistake["detail"] = "The request has nothing of that name; /docs lists what it has"
    if place == "body":
        return {"pointer": "#" + "".join(f"/{_escaped(part)}" for part in path), **mistake}
    return {"parameter": ".".join(path), "in": place, **mistake}


def _text(part: object) -> str:
    """Return a piece of a request as text that can be written as UTF-8, and not too much of it."""
    return str(part)[:200].encode(errors="replace").decode()


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")  # RFC 6901, section 3


def _headers_of(error: TintypeError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if isinstance(error, errors.RangeNotSatisfiable) and "size" in error.details:
        headers["content-range"] = f"bytes */{error.details['size']}"  # RFC 9110, section 15.5.17
    if isinstance(error, errors.UploadMoved) and "expected-offset" in error.details:
        headers["upload-offset"] = str(error.details["expected-offset"])
    if isinstance(error, errors.TusVersionUnsupported):
        headers["tus-version"] = "1.0.0"
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = error.challenge
    if isinstance(error, errors.Forbidden):
        scope = f', scope="{error.details["scope"]}"' if "scope" in error.details else ""
        headers["www-authenticate"] = f'Bearer realm="tintype", error="insufficient_scope"{scope}'
    return headers


def _header(scope: Scope, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _quality(parameters: str) -> float:
    for each in parameters.split(";"):
        name, _, value = each.partition("=")
        if name.strip() == "q":
            return float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return 1.0


def _paragraphs(body: Mapping[str, Any]) -> str:
    told = as_html(body["detail"])
    code = f'<a href="{html.escape(body["type"])}"><code>{html.escape(body["code"])}</code></a>'
    request = f" · request <code>{html.escape(body['request_id'])}</code>" if "request_id" in body else ""
    return f"<p>{told}</p>\n<p>{body['status']} · {code}{request}</p>"


def _dumps(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # text that is no valid Unicode: escaped by the standard library, refused by orjson
        return json.dumps(body, default=str).encode()
