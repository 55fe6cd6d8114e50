# The part of `multipart` 2.0 that is used here; it ships its types without saying so (PEP 561).

from collections.abc import Generator

class MultipartError(ValueError): ...
class ParserLimitReached(MultipartError): ...

class MultipartSegment:
    name: str
    filename: str | None
    content_type: str | None
    def header(self, name: str, default: str | None = None) -> str | None: ...

class PushMultipartParser:
    def __init__(
        self,
        boundary: str,
        *,
        max_header_size: int = ...,
        max_header_count: int = ...,
        max_segment_count: int = ...,
    ) -> None: ...
    def parse(self, chunk: bytes) -> Generator[MultipartSegment | bytes | None]: ...
    def close(self) -> None: ...

def parse_options_header(header: str) -> tuple[str, dict[str, str]]: ...
