"""A stand-in for S3 that keeps what it was told of an object, and throws the bytes away.

Path style only, no signatures are checked. Objects of up to a few kilobytes outside of
`originals/` keep their bytes: that is where Tintype writes who a bucket belongs to.
"""

import itertools
import sys
from dataclasses import dataclass, field
from email.utils import formatdate
from xml.sax.saxutils import escape

from tintype_bench.stand_ins.http import Reply, Request, serve

XML = {"Content-Type": "application/xml"}
ECHOED = ("x-amz-meta-", "x-amz-checksum-", "content-type", "content-disposition", "cache-control")
LARGEST_KEPT_OBJECT = 4096


@dataclass(slots=True)
class Thing:
    """An object, as far as it is remembered."""

    size: int
    etag: str
    headers: dict[str, str]
    modified: str
    body: bytes | None


@dataclass(slots=True)
class Parts:
    """A multipart upload on its way."""

    headers: dict[str, str]
    sizes: dict[int, int] = field(default_factory=dict[int, int])


class Bucket:
    """All objects of the stand-in, whatever the bucket is called."""

    def __init__(self) -> None:
        self._things: dict[str, Thing] = {}
        self._uploads: dict[str, Parts] = {}
        self._numbers = itertools.count(1)

    def answer(self, request: Request) -> Reply:
        """Do what S3 would do, as far as an upload service asks it."""
        key = request.path
        if key.strip("/").count("/") == 0:
            return self._of_bucket(request)
        match request.method:
            case "PUT":
                return self._put_part(request) if "uploadId" in request.query else self._put(request)
            case "HEAD" | "GET":
                return self._get(request)
            case "POST":
                return self._initiate(request) if "uploads" in request.query else self._complete(request)
            case "DELETE":
                self._things.pop(key, None)
                self._uploads.pop(request.query.get("uploadId", ""), None)
                return Reply("204 No Content")
            case _:
                return Reply("405 Method Not Allowed")

    def _of_bucket(self, request: Request) -> Reply:
        if request.method != "GET":
            return Reply()
        listing = (
            "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
        )
        return Reply(headers=XML, body=listing.encode())

    def _put(self, request: Request) -> Reply:
        keep = request.length <= LARGEST_KEPT_OBJECT and "/originals/" not in request.path
        body = request.body if keep else None
        return self._keep(request.path, _size(request), _echoed(request), body)

    def _keep(self, key: str, size: int, headers: dict[str, str], body: bytes | None) -> Reply:
        etag = self._etag()
        self._things[key] = Thing(size, etag, headers, formatdate(usegmt=True), body)
        checksums = {name: value for name, value in headers.items() if name.startswith("x-amz-checksum-")}
        return Reply(headers={"ETag": etag, **checksums})

    def _etag(self) -> str:
        # Opaque, as ETags are: a real MD5 would cost more than all the rest.
        return f'"{next(self._numbers):032x}"'

    def _get(self, request: Request) -> Reply:
        thing = self._things.get(request.path)
        if thing is None or (request.method == "GET" and thing.body is None):
            missing = b"<Error><Code>NoSuchKey</Code></Error>"
            return Reply("404 Not Found", XML, missing if request.method == "GET" else b"")
        headers = {"ETag": thing.etag, "Last-Modified": thing.modified, **thing.headers}
        body = thing.body or b"" if request.method == "GET" else b""
        return Reply(headers=headers, body=body, content_length=thing.size)

    def _initiate(self, request: Request) -> Reply:
        upload = f"upload-{next(self._numbers)}"
        self._uploads[upload] = Parts(_echoed(request))
        return _xml("InitiateMultipartUploadResult", UploadId=upload, Key=request.path)

    def _put_part(self, request: Request) -> Reply:
        parts = self._uploads.get(request.query["uploadId"])
        if parts is None:
            return Reply("404 Not Found", XML, b"<Error><Code>NoSuchUpload</Code></Error>")
        parts.sizes[int(request.query["partNumber"])] = _size(request)
        return Reply(headers={"ETag": self._etag(), **_echoed(request)})

    def _complete(self, request: Request) -> Reply:
        parts = self._uploads.pop(request.query.get("uploadId", ""), None)
        if parts is None:
            return Reply("404 Not Found", XML, b"<Error><Code>NoSuchUpload</Code></Error>")
        kept = self._keep(request.path, sum(parts.sizes.values()), parts.headers, None)
        etag = (kept.headers or {})["ETag"]
        return _xml("CompleteMultipartUploadResult", ETag=etag, Key=request.path)


def _size(request: Request) -> int:
    """Return the object's length, which is not the body's where a client sends `aws-chunked`."""
    return int(request.headers.get("x-amz-decoded-content-length", request.length))


def _echoed(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.startswith(ECHOED)}


def _xml(root: str, **members: str) -> Reply:
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in members.items())
    return Reply(headers=XML, body=f"<{root}>{inner}</{root}>".encode())


if __name__ == "__main__":
    serve(Bucket().answer, port=int(sys.argv[1]))
