"""A stand-in for S3 that keeps what it was told of an object, and throws the bytes away.

Path style only, no signatures are checked. Objects of up to a few kilobytes outside of
`originals/` keep their bytes: that is where Tintype writes who a bucket belongs to. So do
the chunks of unfinished uploads, Tintype's and @tus/server's, which are read again.
"""

import itertools
import sys
from dataclasses import dataclass, field
from email.utils import formatdate
from xml.sax.saxutils import escape

from tintype_bench.stand_ins.http import Reply, Request, is_short, serve

XML = {"Content-Type": "application/xml"}
ECHOED = ("x-amz-meta-", "x-amz-checksum-", "content-type", "content-disposition", "cache-control")
LARGEST_KEPT_OBJECT = 4096
CHUNKS = "/incoming/"
REST_OF_TUS_SERVER = ".part"


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
                return self._list_parts(request) if "uploadId" in request.query else self._get(request)
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
        prefix = request.query.get("prefix", "")
        found = self._chunks(f"{request.path.rstrip('/')}/{prefix}") if prefix.startswith("incoming/") else ""
        listing = f"<ListBucketResult>{found}<IsTruncated>false</IsTruncated></ListBucketResult>"
        return Reply(headers=XML, body=listing.encode())

    def _chunks(self, path: str) -> str:
        """Tell of the chunks of an unfinished upload; of other objects nobody asks for a list."""
        return "".join(
            f"<Contents><Key>{escape(key.split('/', 2)[2])}</Key><Size>{thing.size}</Size>"
            f"<ETag>{escape(thing.etag)}</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for key, thing in self._things.items()
            if key.startswith(path)
        )

    def _put(self, request: Request) -> Reply:
        keep = request.length <= LARGEST_KEPT_OBJECT and "/originals/" not in request.path
        keep = keep or _is_read_again(request)
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

    def _list_parts(self, request: Request) -> Reply:
        parts = self._uploads.get(request.query["uploadId"])
        if parts is None:
            return Reply("404 Not Found", XML, b"<Error><Code>NoSuchUpload</Code></Error>")
        told = "".join(
            f'<Part><PartNumber>{number}</PartNumber><ETag>"{number:032x}"</ETag><Size>{size}</Size></Part>'
            for number, size in sorted(parts.sizes.items())
        )
        body = f"<ListPartsResult>{told}<IsTruncated>false</IsTruncated></ListPartsResult>"
        return Reply(headers=XML, body=body.encode())

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


def _is_read_again(request: Request) -> bool:
    return CHUNKS in request.path or request.path.endswith(REST_OF_TUS_SERVER)


if __name__ == "__main__":
    serve(Bucket().answer, int(sys.argv[1]), lambda request: is_short(request) or _is_read_again(request))
