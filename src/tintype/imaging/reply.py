"""What a worker answers, believed only as far as it can be checked: a decoder may have been taken over."""

import base64
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tintype.imaging.headers import Header
from tintype.imaging.sniff import sniff
from tintype.imaging.storable import storable
from tintype.imaging.worker.job import Kind
from tintype.model.errors import DecoderFailed, ImageCorrupt, ImageTooLarge, TintypeError, UnsupportedType
from tintype.model.image import Facts, Format, Location

_Longitude = Annotated[float, Field(ge=-180, le=180)]
_Latitude = Annotated[float, Field(ge=-90, le=90)]
_CameraFact = Literal["make", "model", "lens", "exposure_time", "f_number", "iso", "focal_length"]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Found(_Checked):
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    frames: int = Field(gt=0)
    has_alpha: bool
    taken_at: datetime | None
    camera: dict[_CameraFact, str | int | float]
    exif: dict[str, JsonValue]
    location: tuple[_Latitude, _Longitude, float | None] | None
    thumbhash: str = Field(pattern=r"^([0-9a-f]{2}){5,40}$")
    dominant_color: str | None = Field(pattern=r"^#[0-9a-f]{6}$")
    phash: int = Field(ge=-(1 << 63), lt=1 << 63)


class _Answer(_Checked):
    facts: _Found | None = None
    rendered: str | None = Field(default=None, max_length=256 * 1024)
    refused: Kind | None = None
    reason: str = Field(default="", max_length=200, pattern=r"^[\x20-\x7e]*$")


def read_reply(reply: bytes, header: Header) -> Facts:
    """Return the facts, or raise the refusal that the worker gave, or `DecoderFailed` for nonsense."""
    try:
        answer = _Answer.model_validate_json(reply)
    except ValidationError as error:
        raise DecoderFailed("The decoder gave an answer that makes no sense. Send another file.") from error
    if answer.facts is None:
        raise _refusal(answer, header)
    found = answer.facts
    return Facts(
        format=header.format,
        width=found.width,
        height=found.height,
        frames=found.frames,
        orientation=header.orientation,
        has_alpha=found.has_alpha,
        taken_at=found.taken_at,
        camera=storable({**found.camera}),
        exif=storable(found.exif),
        location=Location(*found.location) if found.location else None,
        thumbhash=bytes.fromhex(found.thumbhash),
        dominant_color=found.dominant_color,
        phash=found.phash,
    )


def read_rendered(reply: bytes, header: Header) -> bytes:
    """Return the JPEG that a worker made, or raise what `read_reply` raises."""
    try:
        answer = _Answer.model_validate_json(reply)
        picture = base64.b64decode(answer.rendered or "", validate=True)
    except (ValidationError, ValueError) as error:
        raise DecoderFailed("The decoder gave an answer that makes no sense. Send another file.") from error
    if answer.rendered is None:
        raise _refusal(answer, header)
    if sniff(picture) is not Format.JPEG:
        raise DecoderFailed("The decoder gave an answer that makes no sense. Send another file.")
    return picture


def _refusal(answer: _Answer, header: Header) -> TintypeError:
    name = header.format.label
    reason = f" ({answer.reason})" if answer.reason else ""
    match answer.refused:
        case Kind.TOO_LARGE:
            return ImageTooLarge(
                f"The {name} is larger than the limits allow{reason}. Send a smaller version."
            )
        case Kind.UNSUPPORTED:
            return UnsupportedType(
                f"The {name} is coded in a way that cannot be decoded here{reason}. Export it as JPEG or PNG."
            )
        case _:
            return ImageCorrupt(
                f"The {name} cannot be decoded to its end{reason}. Send the original, or export it again."
            )
