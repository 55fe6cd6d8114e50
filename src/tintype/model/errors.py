"""What can go wrong, in the model's words: one class, one code, one row in the registry."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class TintypeError(Exception):
    """The root. `str(error)` is a sentence for the client: what is wrong and what to do next.

    `code` never changes its meaning. `details` are further members of the problem document
    (RFC 9457, section 3.2). `retry_after` is in seconds, where waiting helps.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    type_uri: ClassVar[str | None] = None
    """The problem's `type` where it is registered with IANA; the others have a page of ours."""

    def __init__(
        self,
        detail: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after


# What is wrong with the bytes


class UnsupportedType(TintypeError):
    """The bytes are of a kind that Tintype does not take, whatever their name says."""

    code = "unsupported_type"
    title = "This kind of file is not accepted"


class ImageCorrupt(TintypeError):
    """The bytes begin like an image, and cannot be decoded to the end."""

    code = "image_corrupt"
    title = "The image is damaged or incomplete"


class ImageTooLarge(TintypeError):
    """More pixels, frames, scans or metadata than the limits allow."""

    code = "image_too_large"
    title = "The image is larger than the limits allow"


class DecoderFailed(TintypeError):
    """The decoder died, hung or grew too large; the file is refused, its neighbours unharmed."""

    code = "decoder_failed"
    title = "The image could not be decoded safely"


class UploadEmpty(TintypeError):
    """There are no bytes."""

    code = "upload_empty"
    title = "The upload is empty"


class UploadTooLarge(TintypeError):
    """More bytes than the limit allows."""

    code = "upload_too_large"
    title = "The upload is larger than the limit"


class UploadIncomplete(TintypeError):
    """The connection ended, or slowed to a crawl, before the announced bytes had arrived."""

    code = "upload_incomplete"
    title = "The upload ended early"


class DigestMismatch(TintypeError):
    """The bytes are not those that `Content-Digest` or `Repr-Digest` (RFC 9530) announced."""

    code = "digest_mismatch"
    title = "The bytes do not have the announced digest"


class QuotaExceeded(TintypeError):
    """The owner has stored as many bytes or images as the quota allows; waiting does not help."""

    code = "quota_exceeded"
    title = "The quota is used up"


class RateExceeded(TintypeError):
    """More requests, or more bytes, in a time than one key or one address may send."""

    code = "rate_exceeded"
    title = "Too many requests"


# Who asks


class Unauthenticated(TintypeError):
    """There are no credentials, or none that are known here: it is not told which."""

    code = "unauthenticated"
    title = "Credentials are needed"

    challenge = 'Bearer realm="tintype", error="invalid_token"'
    """The `WWW-Authenticate` of the answer (RFC 6750, section 3)."""


class CredentialsMissing(Unauthenticated):
    """The request has no `Authorization`."""

    code = "credentials_missing"
    title = "Credentials are missing"

    challenge = 'Bearer realm="tintype"'


class KeyExpired(Unauthenticated):
    """The credentials were good until their time was over."""

    code = "key_expired"
    title = "The credentials have expired"


class Forbidden(TintypeError):
    """The credentials are good, and not for this: they lack the scope in `scope`."""

    code = "forbidden"
    title = "The credentials do not allow this"


class TokenSpent(TintypeError):
    """The upload token has been used as often as it allows, or the key that made it was revoked."""

    code = "upload_token_spent"
    title = "The upload token is used up"


class KeyNotFound(TintypeError):
    """The owner has no API key of that id."""

    code = "api_key_not_found"
    title = "There is no such API key"


# What is wrong with the request


class RequestInvalid(TintypeError):
    """A parameter, header or body has a form that cannot be understood."""

    code = "request_invalid"
    title = "The request is not valid"


class HttpInvalid(TintypeError):
    """The bytes on the connection are not HTTP/1.1 (RFC 9112); the connection is closed."""

    code = "http_invalid"
    title = "The request is not valid HTTP"


class HeadTooLarge(TintypeError):
    """The request line and the header fields together are longer than the limit."""

    code = "head_too_large"
    title = "The header fields are too large"


class BodyTooLarge(TintypeError):
    """A JSON body is longer than the limit. The limit of one image is another: `upload_too_large`."""

    code = "body_too_large"
    title = "The body is larger than the limit"


class CodingUnsupported(TintypeError):
    """The body has a Content-Encoding (RFC 9110, section 8.4), which images do not need."""

    code = "coding_unsupported"
    title = "The body must not be compressed"


class MultipartInvalid(TintypeError):
    """The multipart body breaks RFC 7578 or its limits."""

    code = "multipart_invalid"
    title = "The multipart body cannot be read"


class FileMissing(TintypeError):
    """A form arrived without any file part."""

    code = "file_missing"
    title = "The form has no file"


class FilterInvalid(TintypeError):
    """An unknown filter, or a value that the filter does not take."""

    code = "filter_invalid"
    title = "The filter cannot be understood"


class CursorInvalid(TintypeError):
    """A cursor that Tintype did not make, or made for another list."""

    code = "cursor_invalid"
    title = "The cursor does not belong to this list"


class IdempotencyKeyReused(TintypeError):
    """The key was used before for another request."""

    code = "idempotency_key_reused"
    title = "The idempotency key belongs to another request"


class PreconditionFailed(TintypeError):
    """`If-Match` named a version that is not the current one."""

    code = "precondition_failed"
    title = "The image has changed since you read it"


class RangeNotSatisfiable(TintypeError):
    """The range lies outside of the content (RFC 9110, section 15.5.17)."""

    code = "range_not_satisfiable"
    title = "The range lies outside of the image"


class NotFound(TintypeError):
    """No such path, or no such thing for this owner: the two are not told apart."""

    code = "not_found"
    title = "There is nothing here"


class ImageNotFound(TintypeError):
    """The owner has no image of that id or name."""

    code = "image_not_found"
    title = "There is no such image"


class UploadNotFound(TintypeError):
    """The owner has no upload of that id under way."""

    code = "upload_not_found"
    title = "There is no such upload"


class UploadGone(TintypeError):
    """The upload has ended without an image: it expired, or it was given up."""

    code = "upload_gone"
    title = "The upload has ended"


class UploadMoved(TintypeError):
    """The bytes do not go on where the upload stands; `expected-offset` says where that is."""

    code = "mismatching_upload_offset"
    title = "The upload stands at another offset"
    type_uri = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"


class LengthInconsistent(TintypeError):
    """The request says another length of the upload than what was said before, or what it sends."""

    code = "inconsistent_upload_length"
    title = "The lengths that were told of the upload differ"
    type_uri = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length"


class UploadBusy(TintypeError):
    """Another request is just finishing the upload, or what it needs is away for a moment."""

    code = "upload_busy"
    title = "The upload is busy"


class UploadClosed(TintypeError):
    """The upload takes no bytes: it was put together from parts."""

    code = "upload_closed"
    title = "The upload takes no more bytes"


class PartsUnfinished(TintypeError):
    """Some of the parts that are to be put together are still being uploaded; `parts` lists them."""

    code = "parts_unfinished"
    title = "Parts of the upload are not complete"


class TooManyUploads(TintypeError):
    """The owner has as many unfinished uploads as the limit allows."""

    code = "too_many_uploads"
    title = "Too many uploads are unfinished"


class ChecksumMismatch(TintypeError):
    """The bytes of the request are not those of its `Upload-Checksum`; none of them was kept."""

    code = "checksum_mismatch"
    title = "The bytes do not have the announced checksum"


class UploadRequestInvalid(TintypeError):
    """A header field does not say what the upload's protocol wants it to say."""

    code = "upload_request_invalid"
    title = "The request does not follow the upload's protocol"


class TusVersionUnsupported(TintypeError):
    """`Tus-Resumable` is missing, or names a version that is not spoken here."""

    code = "tus_version_unsupported"
    title = "This version of tus is not supported"


class PatchTypeUnsupported(TintypeError):
    """The body of a PATCH has not the media type that the upload's protocol gives it."""

    code = "patch_type_unsupported"
    title = "The body has the wrong media type"


class UploadUnfinished(TintypeError):
    """The upload is to be completed, and its bytes are not there yet."""

    code = "upload_unfinished"
    title = "The bytes of the upload are not there"


class PartsInvalid(TintypeError):
    """The parts of an upload are not those that arrived, out of order, or too small."""

    code = "parts_invalid"
    title = "The parts cannot be put together"


class LinkInvalid(TintypeError):
    """A link that has expired, or was not signed by us."""

    code = "link_invalid"
    title = "The link has expired or is not valid"


class HostRefused(TintypeError):
    """The request names a host that is not this service, which without identity is loopback only."""

    code = "host_refused"
    title = "This service does not go by that name"


class OriginRefused(TintypeError):
    """A browser says that a page of another site asks, and that site is not among those that may."""

    code = "origin_refused"
    title = "Pages of that site may not do this"


class MethodNotAllowed(TintypeError):
    """The path is known, the method is not one of its own."""

    code = "method_not_allowed"
    title = "The method is not allowed here"


class SubscriptionNotFound(TintypeError):
    """The owner has no subscription of that id."""

    code = "subscription_not_found"
    title = "There is no such subscription"


class SubscriptionExists(TintypeError):
    """The address has a subscription already."""

    code = "subscription_exists"
    title = "This address is subscribed already"


class TooManyStreams(TintypeError):
    """The owner follows as many streams of events at this instance as anybody can."""

    code = "too_many_streams"
    title = "There are too many open streams"


class TooManySubscriptions(TintypeError):
    """The owner has as many subscriptions as anybody can have."""

    code = "too_many_subscriptions"
    title = "There are too many subscriptions"


class SubscriptionState(TintypeError):
    """The subscription is in a state, told as `subscription_status`, in which this cannot be done."""

    code = "subscription_state"
    title = "The subscription cannot do that now"


class PolicyInvalid(TintypeError):
    """The filter is not a filter policy as Amazon SNS takes it; `errors` name the keys."""

    code = "filter_policy_invalid"
    title = "The filter cannot be used"


class AddressRefused(TintypeError):
    """The address is well-formed, and leads to where this service does not send anything."""

    code = "address_refused"
    title = "Nothing is sent to that address"


class ChannelUnavailable(TintypeError):
    """The service is not set up for the channel, or for what was asked of it."""

    code = "channel_unavailable"
    title = "The channel is not available"


class CodeInvalid(TintypeError):
    """The code is not the one that was sent, or belongs to an earlier request."""

    code = "code_invalid"
    title = "The code is not right"


class TicketInvalid(TintypeError):
    """A link to confirm or to unsubscribe that is not one of ours, or has been cut."""

    code = "subscription_link_invalid"
    title = "The link is not valid"


class TicketExpired(TintypeError):
    """A link to confirm a subscription that was not used in time, or was replaced by a newer one."""

    code = "subscription_link_expired"
    title = "The link has expired"


class TicketUsed(TintypeError):
    """A link to confirm a subscription that was confirmed with it before, or was given up since."""

    code = "subscription_link_used"
    title = "The link has been used"


class AddressAskedOften(TintypeError):
    """The address was asked to confirm so often that nobody can have it asked again today."""

    code = "address_asked_often"
    title = "The address was asked too often"


class RunInProgress(TintypeError):
    """A check or repair is running, and there is one at a time; `run` is its address."""

    code = "run_in_progress"
    title = "A check is running already"


class RunNotFound(TintypeError):
    """There is no run of that id, or none that can do what is asked."""

    code = "run_not_found"
    title = "There is no such run"


# What is wrong with us


class IssuerUnavailable(TintypeError):
    """The issuer of a token does not tell its keys, so the token cannot be verified."""

    code = "issuer_unavailable"
    title = "The issuer of the token cannot be reached"


class MessagingUnavailable(TintypeError):
    """What brings messages to subscribers does not answer, throttles us, or is full."""

    code = "messaging_unavailable"
    title = "The messaging service is not available"


class Overloaded(TintypeError):
    """The budget of bytes in flight or of decoding is used up; try again shortly."""

    code = "overloaded"
    title = "Tintype is busy"


class StorageUnavailable(TintypeError):
    """The object store does not answer, or answers in doubt."""

    code = "storage_unavailable"
    title = "The object store is not available"


class StorageRefused(StorageUnavailable):
    """The object store refuses our credentials; `detail` names the permission that they lack."""

    code = "storage_refused"
    title = "The object store does not let Tintype in"


class ObjectMissing(StorageUnavailable):
    """The object store says for certain that it has no such object, against the catalogue."""

    code = "object_missing"
    title = "The bytes of the image are missing"


class DatabaseUnavailable(TintypeError):
    """The database does not answer, or a commit stayed in doubt."""

    code = "database_unavailable"
    title = "The database is not available"


class AttemptTooOld(TintypeError):
    """The attempt began longer ago than a commit accepts: its object may be on its way out."""

    code = "attempt_too_old"
    title = "The upload took too long to commit"


class WrongPair(TintypeError):
    """The bucket and the database do not belong together; nothing is written."""

    code = "wrong_pair"
    title = "The object store and the database do not belong together"


class ShuttingDown(TintypeError):
    """The instance is draining; another one answers."""

    code = "shutting_down"
    title = "This instance is shutting down"


class NotReady(TintypeError):
    """The instance cannot serve uploads: `reasons` names each part that fails, and how."""

    code = "not_ready"
    title = "This instance is not ready"


class Internal(TintypeError):
    """A defect of ours. The log has it under the request id."""

    code = "internal"
    title = "Something went wrong on our side"


def error_of_code(code: str, detail: str, details: Mapping[str, Any]) -> TintypeError:
    """Return the error that was kept as its code, sentence and details."""
    error = _CLASSES.get(code, Internal)
    return error(detail, details=details)


def _below(error: type[TintypeError]) -> Iterator[type[TintypeError]]:
    for each in error.__subclasses__():
        yield each
        yield from _below(each)


_CLASSES = {each.code: each for each in _below(TintypeError)}
