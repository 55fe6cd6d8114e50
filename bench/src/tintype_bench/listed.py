"""Answers as S3 gives them to LIST, from memory: what a listing costs whoever asks, not how fast S3 is."""

import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tintype.objects.info import Entry

PAGE = 1000
_ETAG = "0123456789abcdef" * 2


def answer(entries: Sequence[Entry], prefix: str, following: str) -> bytes:
    """Return a ListObjectsV2 result ("ListObjectsV2", S3 API Reference)."""
    more = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{_ETAG}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, size, _ in entries
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>listed</Name><Prefix>{prefix}</Prefix><KeyCount>{len(entries)}</KeyCount>"
        f"<MaxKeys>{PAGE}</MaxKeys><IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}"
        f"{contents}</ListBucketResult>"
    ).encode()


def serve(pages: Sequence[Sequence[Entry]], prefix: str) -> None:
    """Answer every LIST with these pages, whatever its prefix is, until killed. Prints the port."""
    answers = {
        str(number or ""): answer(page, prefix, str(number + 1) if number + 1 < len(pages) else "")
        for number, page in enumerate(pages)
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            body = answers[asked.get("continuation-token", [""])[0]]
            self.send_response(200)
            self.send_header("content-type", "application/xml")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
