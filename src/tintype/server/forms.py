"""Forms: multipart/form-data (RFC 7578) from the socket into bodies, part by part."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from tintype.ingest.receive import Incoming, Receiver
from tintype.model.body import Body
from tintype.model.errors import FileMissing, MultipartInvalid
from tintype.server.announced import digests_of
from tintype.server.warnings import declared_type_of
from tintype.settings import LimitsSettings

MAX_HEADER_BYTES = 8 * 1024
MAX_HEADERS = 16
KNOWN_TEXTS = frozenset({"tag", "tags", "attributes", "on_duplicate"})
"""Text parts that mean something here; others are passed over, as forms carry fields of their own."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file of the form."""

    filename: str
    declared_type: str | None
    body: Body


@dataclass(slots=True)
class Form:
    """A form that has arrived. `incoming` has its bodies, finished or not; `close` lets them go."""

    owner: str = ""
    files: list[FilePart] = field(default_factory=list[FilePart])
    texts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    incoming: list[Incoming] = field(default_factory=list[Incoming])

    def close(self) -> None:
        """Let every body go, finished or not."""
        for each in self.incoming:
            each.close()


@dataclass(slots=True)
class FormReader:
    """Reads one form. Nothing is judged before its last boundary: a form that breaks off stores nothing."""

    receiver: Receiver
    limits: LimitsSettings
    form: Form
    known: frozenset[str] = KNOWN_TEXTS
    _part: MultipartSegment | None = None
    _file: Incoming | None = None
    _text: bytearray = field(default_factory=bytearray)
    _text_bytes: int = 0

    async def read(self, boundary: str, chunks: AsyncIterable[bytes]) -> None:
        """Fill the form. Raises `MultipartInvalid`, `FileMissing`, and what receiving raises."""
        try:
            parser = PushMultipartParser(
                boundary,
                max_header_size=MAX_HEADER_BYTES,
                max_header_count=MAX_HEADERS,
                max_segment_count=self.limits.max_parts,
            )
            async for chunk in chunks:
                for event in parser.parse(chunk):
                    await self._take(event)
            parser.close()
        except ParserLimitReached as error:
            raise MultipartInvalid(
                f"The form goes beyond a limit: {self.limits.max_parts} parts, {MAX_HEADERS} headers of "
                f"{MAX_HEADER_BYTES} bytes a part."
            ) from error
        except MultipartError as error:
            raise MultipartInvalid(f"The multipart body does not follow RFC 7578: {error}.") from error
        if not self.form.files:
            raise FileMissing("The form has no file part. Send one with `curl -F file=@picture.jpg`.")

    async def _take(self, event: MultipartSegment | bytes | None) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            await self._end()
        elif self._file is not None:
            await self._file.write(event)
        else:
            self._add_text(event)

    def _begin(self, part: MultipartSegment) -> None:
        self._part = part
        if not _is_file(part):
            return
        if len(self.form.files) >= self.limits.max_files:
            raise MultipartInvalid(f"A form takes up to {self.limits.max_files} files.")
        digests = digests_of((name, part.header(name)) for name in ("Content-Digest", "Repr-Digest"))
        self._file = self.receiver.begin(None, digests, self.form.owner)
        self.form.incoming.append(self._file)

    async def _end(self) -> None:
        part, file = self._part, self._file
        self._part = self._file = None
        if part is None:
            return
        if file is None:
            if part.name in self.known:
                self.form.texts.setdefault(part.name, []).append(self._text.decode(errors="replace"))
            self._text.clear()
        elif part.filename or file.length:  # a browser sends an empty nameless part for an input left empty
            body = await file.finish()
            self.form.files.append(FilePart(part.filename or "", declared_type_of(part.content_type), body))

    def _add_text(self, data: bytes) -> None:
        self._text_bytes += len(data)
        if self._text_bytes > self.limits.max_text_bytes:
            raise MultipartInvalid(f"The text parts of a form take up to {self.limits.max_text_bytes} bytes.")
        self._text += data


def _is_file(part: MultipartSegment) -> bool:
    """Tell a file from a text: by its file name, else by a media type that no text input has."""
    if part.filename is not None:
        return True
    return (part.content_type or "").startswith("image/") or part.content_type == "application/octet-stream"
