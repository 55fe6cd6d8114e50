"""The shapes that cross the API: what clients send is checked by them, what they get is described by them."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from tintype.model.errors import FilterInvalid, RequestInvalid
from tintype.model.filename import clean_filename
from tintype.model.image import Image, State
from tintype.model.labels import attributes_of, tags_of
from tintype.model.payload import image_payload
from tintype.model.query import Change, ImageFilter, ImageQuery, Sort
from tintype.server.warnings import warnings_of

EXAMPLE: dict[str, Any] = {
    "id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
    "owner": "local",
    "filename": "rome.jpg",
    "extension": "jpg",
    "declared_type": "image/jpeg",
    "content_type": "image/jpeg",
    "bytes": 2483112,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "width": 4032,
    "height": 3024,
    "frames": 1,
    "orientation": 6,
    "has_alpha": False,
    "taken_at": "2026-05-01T12:30:00",
    "camera": {"make": "Apple", "model": "iPhone 15", "iso": 64, "f_number": 1.6},
    "thumbhash": "1QcSHQRnh493V4dIh4eXh1h4kJUI",
    "dominant_color": "#8a7f6d",
    "phash": "c3d4a1b2e5f60718",
    "tags": ["holiday"],
    "attributes": {"album": "Rome"},
    "state": "ready",
    "protocol": "multipart",
    "created_at": "2026-05-02T08:00:00.123456+00:00",
    "updated_at": "2026-05-02T08:00:00.123456+00:00",
    "deleted_at": None,
    "version": 1,
    "url": "/v1/images/01932c07-209c-7f3a-8f51-6b1d0a4be3c2/content",
    "urls": {
        "self": "/v1/images/01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
        "content": "/v1/images/01932c07-209c-7f3a-8f51-6b1d0a4be3c2/content",
    },
    "warnings": [],
}


Disposition = Literal["attachment", "inline"]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]")


def _no_number(value: object) -> object:
    """Refuse a number, which Pydantic would take for a Unix time."""
    if isinstance(value, str) and not _DATE.match(value):
        raise PydanticCustomError("datetime_format", "Input should be written as 2026-05-01T12:30:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]
"""RFC 3339, and nothing that merely can be understood as a time."""
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""Text that PostgreSQL can be asked about: it knows no NUL."""


class Warning_(BaseModel):  # noqa: N801 # `Warning` is Python's own
    """Something that the sender may want to know; the image is stored all the same."""

    model_config = ConfigDict(title="Warning")

    code: str
    detail: str


class ImageUrls(BaseModel):
    """Where the image's resources are, relative to the service."""

    self: str
    content: str


class LocationOut(BaseModel):
    """Where a camera says it stood: WGS 84 degrees, metres above the sea."""

    latitude: float
    longitude: float
    altitude: float | None


class ImageOut(BaseModel):
    """An image. `width` and `height` are as stored; `orientation` (EXIF 1 to 8) says how to turn them."""

    model_config = ConfigDict(title="Image", json_schema_extra={"example": EXAMPLE})

    id: UUID
    owner: str
    filename: str
    extension: str
    declared_type: str | None
    content_type: str
    bytes: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    width: int
    height: int
    frames: int
    orientation: int = Field(ge=1, le=8)
    has_alpha: bool | None
    taken_at: datetime | None = Field(description="By the camera's clock; without a zone unless it has one.")
    camera: dict[str, Any]
    thumbhash: str | None = Field(description="Base64; see evanw.github.io/thumbhash.")
    dominant_color: str | None = Field(description="`#rrggbb`")
    phash: str | None = Field(description="64-bit perceptual hash: similar pictures differ in few bits.")
    tags: list[str]
    attributes: dict[str, Any]
    state: State
    protocol: str
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    version: int
    url: str = Field(description="The bytes; the same as `urls.content`.")
    urls: ImageUrls
    warnings: list[Warning_]
    exif: dict[str, Any] | None = Field(default=None, description="Only with `?include=exif`.")
    location: LocationOut | None = Field(default=None, description="Only with `?include=location`.")


class UploadResult(BaseModel):
    """What became of one file among several."""

    filename: str
    status: int
    image: ImageOut | None = None
    problem: dict[str, Any] | None = None


class UploadResults(BaseModel):
    """What became of each file, in the order in which they were sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "results": [
                    {"filename": "rome.jpg", "status": 201, "image": EXAMPLE},
                    {"filename": "notes.txt", "status": 415, "problem": {"code": "unsupported_type"}},
                ]
            }
        }
    )

    results: list[UploadResult]


class ImagePage(BaseModel):
    """A page of a list. `next_cursor` is null on the last one."""

    data: list[ImageOut]
    next_cursor: str | None


class ImagePatch(BaseModel):
    """A merge patch (RFC 7396): what is absent stays, `null` in `attributes` removes a key."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"tags": ["holiday", "rome"], "attributes": {"album": "Rome"}}},
    )

    filename: str | None = Field(default=None, min_length=1)
    tags: list[str] | None = None
    attributes: dict[str, Any] | None = None

    def change(self) -> Change:
        """Return what to change. Raises `RequestInvalid` for what an image does not take."""
        filename = None if self.filename is None else clean_filename(self.filename)
        if filename == "":
            raise RequestInvalid("`filename` has nothing in it that a file name can have.")
        return Change(
            filename=filename,
            tags=None if self.tags is None else tags_of(self.tags),
            attributes=None if self.attributes is None else attributes_of(self.attributes),
        )


class LinkRequest(BaseModel):
    """How long a link shall live, and whether a browser saves the file or shows it."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"expires_in": 3600}}
    )

    expires_in: int | None = Field(default=None, ge=1, le=604_800, description="Seconds, a week at most.")
    disposition: Disposition = Field(default="attachment", description="`inline`: for a browser to show.")

    @field_validator("expires_in", mode="before")
    @classmethod
    def _whole(cls, seconds: object) -> object:
        """Take 60.0 for the whole number that it is in JSON Schema (section 4.2.3)."""
        return int(seconds) if isinstance(seconds, float) and seconds.is_integer() else seconds


class LinkOut(BaseModel):
    """A link to the bytes that works without credentials until it expires."""

    url: str
    expires_at: datetime


class FilterParams(BaseModel):
    """The filters that a list and the random choice have in common."""

    model_config = ConfigDict(extra="forbid")

    ext: Text | None = Field(default=None, description="Of the file name: `jpg`.", examples=["jpg"])
    content_type: Text | None = Field(default=None, description="Of the bytes: `image/png`.")
    tag: list[Text] = Field(default=[], description="Given several times, all of them must be there.")
    min_bytes: int | None = Field(default=None, ge=0)
    max_bytes: int | None = Field(default=None, ge=0)
    created_after: Moment | None = Field(default=None, description="RFC 3339, with its zone.")
    created_before: Moment | None = Field(default=None, description="RFC 3339, with its zone.")
    q: Text | None = Field(default=None, max_length=200, description="A part of the name, or of a tag.")

    def filter(self) -> ImageFilter:
        """Return the filter. Raises `FilterInvalid` for one that nothing can pass."""
        _check_order("bytes", self.min_bytes, self.max_bytes)
        _check_order("created", self.created_after, self.created_before)
        return ImageFilter(
            extension=self.ext.lower().lstrip(".") if self.ext else None,
            content_type=self.content_type,
            tags=tuple(self.tag),
            min_bytes=self.min_bytes,
            max_bytes=self.max_bytes,
            created_after=self.created_after,
            created_before=self.created_before,
            text=self.q,
        )


class ListParams(FilterParams):
    """The filters of a list, its order and its place in it."""

    state: Literal["ready", "deleted"] = Field(default="ready", description="`deleted`: the trash.")
    sort: Literal["created_at", "-created_at", "bytes", "-bytes", "filename", "-filename"] = "-created_at"
    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=2000, description="`next_cursor` of the page before.")

    def query(self) -> ImageQuery:
        """Return the query. Raises what `filter` raises."""
        return ImageQuery(
            filter=self.filter(),
            sort=Sort(self.sort),
            limit=self.limit,
            trashed=self.state == "deleted",
            cursor=self.cursor,
        )


class ReadParams(BaseModel):
    """What to add to an image."""

    model_config = ConfigDict(extra="forbid")

    include: Literal["exif", "location"] | None = Field(
        default=None,
        description="`exif`: the rest of the EXIF data. `location`: where the picture was taken, null when "
        "it does not say; this needs the scope `location` too.",
    )


class ContentParams(BaseModel):
    """How the bytes are wanted; `expires` and `signature` are a link's own."""

    model_config = ConfigDict(extra="forbid")

    redirect: bool = Field(default=False, description="On S3: let S3 send the bytes.")
    disposition: Disposition = Field(default="attachment", description="`inline`: for a browser to show.")
    expires: int = Field(default=0, ge=0)
    signature: str | None = Field(default=None, max_length=200)


def image_resource(image: Image, *, base: str = "") -> dict[str, Any]:
    """Return the image as the API shows it. `base` is put before its URLs."""
    path = f"{base}/v1/images/{image.id}"
    content = f"{path}/content"
    return {
        **image_payload(image),
        "url": content,
        "urls": {"self": path, "content": content},
        "warnings": warnings_of(image),
    }


def _check_order(name: str, lowest: int | datetime | None, highest: int | datetime | None) -> None:
    if lowest is not None and highest is not None and lowest > highest:  # type: ignore[operator] # of one kind
        raise FilterInvalid(
            f"The filter on `{name}` lets nothing through: its lower bound is the higher one."
        )
