"""The OpenAPI document: what FastAPI derives from the routes, with the failures and examples it cannot know.

For a route: `responses=may_fail(ImageNotFound, …)` documents its problems (the class's own row in
`problems.KINDS` gives status and example); `openapi_extra=UPLOAD_BODY` gives file pickers to /docs.
"""

import re
from collections.abc import Iterator
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from tintype.model import errors
from tintype.model.errors import TintypeError
from tintype.server.access import access_of
from tintype.server.problems import MEDIA_TYPE, kind_of, meaning_of, problem_type
from tintype.server.rates import RESUMABLE

Document = dict[str, Any]

_EXAMPLE_REQUEST_ID = "01932c07209c7f3a8f516b1d0a4be3c2"
_PATH_EXAMPLES = {
    "image_id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
    "upload_id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
    "filename": "rome.jpg",
    "code": "image_not_found",
    "run_id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
    "subscription_id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
}
_SENTENCE = re.compile(r"(.+?)\.(?=\s|$)", re.DOTALL)
_KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`tt_…`), a JWT of a configured issuer, or for uploads an upload token "
    "(`tut_…`). A service without identity, which listens on loopback only, asks for none.",
}
_BINARY = {"type": "string", "format": "binary"}
"""Not 3.1's `contentMediaType`: Swagger UI shows a file picker for this one only."""


def _parameter(place: str, name: str, description: str, **schema: object) -> Document:
    # Without an example: Swagger UI would send it with every upload.
    return {"in": place, "name": name, "description": description, "schema": {"type": "string", **schema}}


# What an upload's handler reads by itself, so that a hot route carries no machinery for it.
_UPLOAD_PARAMETERS = [
    _parameter("query", "tags", "Labels, separated by commas: `holiday,rome`."),
    _parameter("query", "attributes", 'A JSON object of your own: `{"album": "Rome"}`.'),
    _parameter(
        "query",
        "on_duplicate",
        "The same bytes again are answered with the image that holds them; `keep` stores them twice.",
        enum=["existing", "keep"],
    ),
    _parameter(
        "header",
        "Idempotency-Key",
        "Repeats with this key, a UUID say, get the first answer.",
        minLength=1,
        maxLength=255,
        pattern="^[!-~]+$",
    ),
    _parameter("header", "Repr-Digest", "`sha-256=:…:` of the bytes: verified before they are stored."),
    _parameter("header", "Content-Digest", "The same, of the body as it is sent (RFC 9530)."),
]

UPLOAD_BODY: Document = {
    "parameters": [
        _parameter("query", "filename", "The name of a raw body; parts of a form bring theirs."),
        *_UPLOAD_PARAMETERS,
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {**_BINARY, "description": "One image."},
                        "files": {
                            "type": "array",
                            "items": _BINARY,
                            "description": "Several images. The name of a field does not matter.",
                        },
                        "tags": {
                            "type": "string",
                            "description": "Labels, separated by commas: `holiday,rome`.",
                            "example": "",
                        },
                        "attributes": {
                            "type": "string",
                            "description": 'A JSON object of your own: `{"album": "Rome"}`.',
                            "example": "{}",
                        },
                    },
                },
            },
            "application/octet-stream": {"schema": _BINARY},
        },
    },
}
"""For a route that takes a form or the bytes themselves."""

RAW_BODY: Document = {
    "parameters": _UPLOAD_PARAMETERS,
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BINARY}}},
}
"""For a route that takes the bytes themselves."""

TAGS = [
    {"name": "images", "description": "Upload, find, change, deliver and delete images."},
    {"name": "uploads", "description": "Uploads that take more than one request, and where each stands."},
    {"name": "identity", "description": "Who you are, API keys, and upload tokens."},
    {"name": "notifications", "description": "Who is told of what: subscriptions, and the log of events."},
    {"name": "consistency", "description": "Whether objects and rows agree, and what is done about it."},
    {"name": "service", "description": "What this service is, what it takes, and how it is."},
]

PROBLEM_SCHEMA: Document = {
    "title": "Problem",
    "type": "object",
    "description": "What went wrong (RFC 9457). Further members depend on `code`; ignore unknown ones.",
    "required": ["type", "title", "status", "detail", "code", "retryable"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "Resolves to a page about the code.",
        },
        "title": {"type": "string", "description": "What the code means, always in the same words."},
        "status": {"type": "integer", "description": "The HTTP status, again."},
        "detail": {"type": "string", "description": "What is wrong this time, and what to do next."},
        "code": {"type": "string", "description": "For programs. It never changes its meaning."},
        "instance": {"type": "string", "format": "uri-reference", "description": "The path asked for."},
        "request_id": {"type": "string", "description": "The log has the request under it."},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
        "retry_after": {"type": "integer", "description": "Seconds to wait first; also in `Retry-After`."},
        "errors": {
            "type": "array",
            "description": "Each mistake in the request.",
            "items": {
                "type": "object",
                "required": ["code", "detail"],
                "properties": {
                    "parameter": {"type": "string", "description": "The parameter's name."},
                    "in": {"type": "string", "enum": ["path", "query", "header", "cookie"]},
                    "pointer": {"type": "string", "description": "The place in the body (RFC 6901)."},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


def may_fail(*failures: type[TintypeError]) -> dict[int | str, Document]:
    """Return the `responses` of a route that fails in these ways, with an example of each."""
    responses: dict[int | str, Document] = {}
    for failure in failures:
        response = responses.setdefault(
            kind_of(failure).status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        response["content"][MEDIA_TYPE]["examples"][failure.code] = _example(failure)
        response["description"] = ", ".join(
            f"`{code}`" for code in response["content"][MEDIA_TYPE]["examples"]
        )
    return responses


def document_of(app: FastAPI) -> Document:
    """Return the whole document."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        routes=app.routes,
        webhooks=app.webhooks.routes,
        tags=TAGS,
        servers=[{"url": "/", "description": "This service"}],
    )
    _name_operations(document, app)
    _tell_access(document, app)
    for operation in _operations(document):
        _summarise(operation)
        _exemplify(operation)
        _tell_failures(operation)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas["Problem"] = PROBLEM_SCHEMA
    document["components"]["securitySchemes"] = {"key": _KEY_SCHEME}
    return document


def _name_operations(document: Document, app: FastAPI) -> None:
    """Name each operation after its function: short, stable, and what generated clients call it."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                document["paths"][route.path_format][method.lower()]["operationId"] = route.name


def _tell_access(document: Document, app: FastAPI) -> None:
    """Tell what each operation asks of its caller, and how it refuses."""
    for route in app.routes:
        access = access_of(route)
        if access is None or not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            if access.public:
                operation["security"] = []
                continue
            operation["security"] = [{"key": []}] + ([{}] if access.by_link else [])
            failures: list[type[TintypeError]] = [
                *(errors.CredentialsMissing, errors.Unauthenticated, errors.KeyExpired),
                *(errors.DatabaseUnavailable, errors.IssuerUnavailable),
            ]
            is_resumable = route.path.startswith(RESUMABLE)
            failures.append(errors.Overloaded if is_resumable else errors.RateExceeded)
            if access.scope is not None:
                operation["x-required-scope"] = str(access.scope)
            if access.scope is not None or not access.by_token:
                failures.append(errors.Forbidden)
            if access.by_token:
                failures.append(errors.TokenSpent)
            _merge(operation["responses"], may_fail(*failures))


def _merge(responses: Document, more: dict[int | str, Document]) -> None:
    """Add failures to those that an operation tells already."""
    for status, response in more.items():
        told = responses.setdefault(str(status), response)
        if told is not response:
            examples = told["content"][MEDIA_TYPE]["examples"]
            examples |= _examples(response)
            told["description"] = ", ".join(f"`{code}`" for code in examples)


def _summarise(operation: Document) -> None:
    """Make the docstring's first sentence the summary, and the rest the description."""
    told = operation.pop("description", operation["summary"])
    sentence = _SENTENCE.match(told)
    operation["summary"] = " ".join(sentence[1].split()) if sentence else told
    if sentence and (rest := told[sentence.end() :].strip()):
        operation["description"] = rest


def _exemplify(operation: Document) -> None:
    """Give the parts of paths examples, which their names stand for everywhere."""
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in _PATH_EXAMPLES and parameter["in"] == "path":
            parameter.setdefault("example", _PATH_EXAMPLES[parameter["name"]])


def _tell_failures(operation: Document) -> None:
    """Give an operation the failures that every one has, and put ours where FastAPI documents its own."""
    responses = operation["responses"]
    validated = "422" in responses and MEDIA_TYPE not in responses["422"].get("content", {})
    if validated:
        del responses["422"]
    common: tuple[type[TintypeError], ...] = (errors.Internal,)
    if validated:
        common += (errors.RequestInvalid,)
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        common += (errors.BodyTooLarge, errors.UploadIncomplete)
    for status, response in may_fail(*common).items():
        responses.setdefault(str(status), response)
    codes = {code for each in responses.values() for code in _examples(each)}
    operation["x-error-codes"] = sorted(codes)


def _examples(response: Document) -> Document:
    examples: Document = response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
    return examples


def _operations(document: Document) -> Iterator[Document]:
    for path in cast("dict[str, Document]", document["paths"]).values():
        yield from path.values()


def _example(failure: type[TintypeError]) -> Document:
    kind = kind_of(failure)
    value: Document = {
        "type": problem_type(failure),
        "title": failure.title,
        "status": kind.status,
        "detail": meaning_of(failure),
        "code": failure.code,
        "retryable": kind.retryable,
        "request_id": _EXAMPLE_REQUEST_ID,
    }
    return {"summary": failure.title, "value": value}
