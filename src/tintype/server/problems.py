"""Problems (RFC 9457): the one registry of what can go wrong, and the document that tells it."""

import inspect
from dataclasses import dataclass
from typing import Any

from tintype.model import errors
from tintype.model.errors import TintypeError

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """How the API answers one class of errors."""

    status: int
    advice: str
    """What a client does next: shown on the error's page and in docs/errors.md."""
    retryable: bool = False
    """Whether the same request, sent again, may succeed; where it is False it will fail again."""


KINDS: dict[type[TintypeError], Kind] = {
    errors.UnsupportedType: Kind(
        415, "Send a JPEG, PNG, GIF, WebP, AVIF or TIFF file; `GET /v1/capabilities` lists what is accepted."
    ),
    errors.ImageCorrupt: Kind(422, "Open the file on your side. If it is whole there, send it again."),
    errors.ImageTooLarge: Kind(
        422, "Make the image smaller, or ask for higher limits; `GET /v1/capabilities` lists them."
    ),
    errors.DecoderFailed: Kind(422, "Save the image anew with another program, and send that."),
    errors.UploadEmpty: Kind(422, "Check the path of the file that you send."),
    errors.UploadTooLarge: Kind(413, "Send fewer bytes; `limit` is the largest number that is accepted."),
    errors.UploadIncomplete: Kind(
        400, "Nothing was stored. Send the upload again, over a better connection.", retryable=True
    ),
    errors.DigestMismatch: Kind(
        400,
        "The bytes changed on their way, or the digest is of another file. Send it again.",
        retryable=True,
    ),
    # Not 429 and not 507: libraries repeat those by themselves, and it would not help.
    errors.QuotaExceeded: Kind(
        413,
        "Ask for a larger quota, or wait until what was deleted is gone for good; `GET /v1/me` shows both "
        "the quota and its use.",
    ),
    errors.RateExceeded: Kind(429, "Wait for `Retry-After` seconds, then go on more slowly.", retryable=True),
    errors.Unauthenticated: Kind(
        401, "Check that all of the key is there, and that nobody has revoked it; or ask for another one."
    ),
    errors.CredentialsMissing: Kind(401, "Send `Authorization: Bearer` and your key."),
    errors.KeyExpired: Kind(401, "Ask for a new key or token."),
    errors.Forbidden: Kind(403, "Use credentials with the scope in `scope`, or ask for such."),
    errors.TokenSpent: Kind(403, "Ask whoever gave you the token for a new one."),
    errors.KeyNotFound: Kind(404, "Check the id; `GET /v1/api-keys` lists yours."),
    errors.RequestInvalid: Kind(422, "Correct what `detail` and `errors` name; /docs describes the request."),
    errors.HttpInvalid: Kind(400, "Use an HTTP client that speaks HTTP/1.1 as RFC 9112 has it."),
    errors.HeadTooLarge: Kind(431, "Send fewer or shorter header fields, cookies among them."),
    errors.BodyTooLarge: Kind(413, "Send a shorter body; `limit` is its largest length in bytes."),
    errors.CodingUnsupported: Kind(415, "Send the image as it is, without `Content-Encoding`."),
    errors.MultipartInvalid: Kind(400, "Let a library build the form: `curl -F file=@picture.jpg`."),
    errors.FileMissing: Kind(422, "Add a part with a file name to the form: `curl -F file=@picture.jpg`."),
    errors.FilterInvalid: Kind(400, "Use the filters that /docs lists for this request."),
    errors.CursorInvalid: Kind(
        400, "Take `next_cursor` of the page before, with the same filters and sort, or begin without one."
    ),
    errors.IdempotencyKeyReused: Kind(422, "Make a new key for each upload; repeat one only for a retry."),
    errors.PreconditionFailed: Kind(412, "Read the image again, and decide with what it is now."),
    errors.RangeNotSatisfiable: Kind(416, "Ask for a range below `size` bytes."),
    errors.NotFound: Kind(404, "Check the address; /docs lists those that exist."),
    errors.ImageNotFound: Kind(404, "Check the id or name. It may have been deleted."),
    errors.UploadNotFound: Kind(404, "Check the id; `GET /v1/uploads` lists yours. Or begin a new upload."),
    errors.UploadGone: Kind(410, "Begin a new upload."),
    errors.UploadUnfinished: Kind(
        409,
        "Send the bytes as the answer to `POST /v1/uploads` told, then complete the upload.",
        retryable=True,
    ),
    errors.PartsInvalid: Kind(
        422, "List the parts that arrived, send what is missing, and name all of them, in order."
    ),
    errors.UploadMoved: Kind(409, "Ask with HEAD where the upload stands, and go on from there."),
    errors.LengthInconsistent: Kind(400, "Say the length once, or the same one each time."),
    errors.UploadBusy: Kind(
        423, "Wait for `Retry-After` seconds, then ask again with HEAD and go on.", retryable=True
    ),
    errors.UploadClosed: Kind(403, "Begin another upload for other bytes."),
    errors.PartsUnfinished: Kind(
        409, "Upload the rest of the parts in `parts`, then send this again.", retryable=True
    ),
    errors.TooManyUploads: Kind(
        429, "Finish some, or give them up with DELETE; `GET /v1/uploads` lists them.", retryable=True
    ),
    errors.ChecksumMismatch: Kind(
        460, "The bytes changed on their way: send them again from the same offset.", retryable=True
    ),
    errors.UploadRequestInvalid: Kind(
        400, "Correct the header field that `detail` names; docs/uploads.md has examples."
    ),
    errors.TusVersionUnsupported: Kind(412, "Send `Tus-Resumable: 1.0.0`."),
    errors.PatchTypeUnsupported: Kind(
        415, "Send `Content-Type: application/offset+octet-stream` (tus) or `application/partial-upload`."
    ),
    errors.RunInProgress: Kind(
        409, "Follow the run in `run`, wait for its end, or cancel it.", retryable=True
    ),
    errors.RunNotFound: Kind(404, "Check the id; `GET /v1/consistency/runs` lists the latest."),
    errors.LinkInvalid: Kind(403, "Ask whoever gave you the link for a new one."),
    errors.HostRefused: Kind(421, "Use `localhost`, or the address in `TINTYPE_PUBLIC_URL`."),
    errors.OriginRefused: Kind(
        403, "Open Tintype's own page, or ask the operator to name your origin in `TINTYPE_CORS_ORIGINS`."
    ),
    errors.MethodNotAllowed: Kind(405, "Use one of the methods in `Allow`."),
    errors.SubscriptionNotFound: Kind(404, "Check the id; `GET /v1/subscriptions` lists yours."),
    errors.SubscriptionExists: Kind(
        409,
        "Change or delete the subscription that the address has; `GET /v1/subscriptions` lists yours.",
    ),
    errors.TooManyStreams: Kind(
        429, "Close a stream that nobody reads, or ask `GET /v1/events` now and then.", retryable=True
    ),
    errors.TooManySubscriptions: Kind(409, "Delete subscriptions that nobody needs any more."),
    errors.SubscriptionState: Kind(409, "Read the subscription: `status` and `reason` say where it stands."),
    errors.PolicyInvalid: Kind(
        422, "Correct the keys that `errors` names; docs/notifications.md describes filters."
    ),
    errors.AddressRefused: Kind(422, "Name an address on the public internet, by https."),
    errors.ChannelUnavailable: Kind(
        422, "Use one of the `subscriptions` of `GET /v1/capabilities`, or ask the operator for this one."
    ),
    errors.CodeInvalid: Kind(422, "Type the newest code again, or have another one sent by `resend`."),
    errors.TicketInvalid: Kind(403, "Open the link of the message again, whole."),
    errors.TicketExpired: Kind(410, "Ask whoever subscribed you to have a new link sent."),
    errors.TicketUsed: Kind(410, "There is nothing left to do."),
    errors.AddressAskedOften: Kind(
        429, "Wait for `Retry-After` seconds; look for the messages that were sent.", retryable=True
    ),
    errors.IssuerUnavailable: Kind(503, "Wait for `Retry-After` seconds, then try again.", retryable=True),
    errors.MessagingUnavailable: Kind(503, "Wait for `Retry-After` seconds, then try again.", retryable=True),
    errors.Overloaded: Kind(
        503, "Wait for `Retry-After` seconds, then send the request again.", retryable=True
    ),
    errors.StorageUnavailable: Kind(
        503,
        "Send the request again with the same `Idempotency-Key`; nothing is stored twice.",
        retryable=True,
    ),
    errors.StorageRefused: Kind(
        503, "The operator gives Tintype's role the permission that `detail` names.", retryable=True
    ),
    errors.ObjectMissing: Kind(
        503,
        "Tell the operator: the consistency check finds what is missing, and brings back what it can.",
        retryable=True,
    ),
    errors.DatabaseUnavailable: Kind(
        503,
        "Send the request again with the same `Idempotency-Key`; nothing is stored twice.",
        retryable=True,
    ),
    errors.AttemptTooOld: Kind(503, "Nothing was stored. Send the upload again.", retryable=True),
    errors.WrongPair: Kind(
        503, "The operator has named a bucket and a database that do not belong together.", retryable=True
    ),
    errors.ShuttingDown: Kind(503, "Send the request again: another instance answers.", retryable=True),
    errors.NotReady: Kind(503, "Ask again; a balancer sends requests elsewhere meanwhile.", retryable=True),
    errors.Internal: Kind(
        500, "Tell the operator the `request_id`: the log has the rest under it.", retryable=True
    ),
}

BY_CODE: dict[str, type[TintypeError]] = {error.code: error for error in KINDS}


def kind_of(error: type[TintypeError]) -> Kind:
    """Return how the API answers a class of errors; one that nobody registered is a defect of ours."""
    for cls in error.__mro__:
        if (kind := KINDS.get(cls)) is not None:
            return kind
    return KINDS[errors.Internal]


def status_of(error: TintypeError) -> int:
    """Return the HTTP status of an error."""
    return kind_of(type(error)).status


def meaning_of(error: type[TintypeError]) -> str:
    """Return what a class of errors means, in a sentence or two: its docstring."""
    return " ".join((inspect.getdoc(error) or "").split())


def problem_type(error: type[TintypeError]) -> str:
    """Return the problem's `type`: a reference that resolves to a page about it."""
    return error.type_uri or f"/problems/{error.code}"


def problem_body(
    error: TintypeError, *, instance: str | None = None, request_id: str | None = None
) -> dict[str, Any]:
    """Return the problem document of an error.

    `instance` is the path that was asked for, never its query: links are signed there.
    """
    kind = kind_of(type(error))
    body: dict[str, Any] = {
        "type": problem_type(type(error)),
        "title": error.title,
        "status": kind.status,
        "detail": str(error),
        "code": error.code,
        "retryable": kind.retryable,
    }
    optional = {"instance": instance, "request_id": request_id, "retry_after": error.retry_after}
    body |= {name: value for name, value in optional.items() if value is not None}
    return body | {name: value for name, value in error.details.items() if name not in body}


def page_of(error: type[TintypeError]) -> dict[str, Any]:
    """Return what is to be said about a code as such, apart from any occurrence."""
    kind = kind_of(error)
    return {
        "type": problem_type(error),
        "code": error.code,
        "title": error.title,
        "status": kind.status,
        "meaning": meaning_of(error),
        "advice": kind.advice,
        "retryable": kind.retryable,
    }
