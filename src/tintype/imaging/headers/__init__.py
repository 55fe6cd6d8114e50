"""Headers, walked in Python: bounded reads and no decoder, so that limits hold before any decoder runs."""

from collections.abc import Callable

from tintype.imaging.headers.gif import read_gif
from tintype.imaging.headers.header import Header, Span, damaged
from tintype.imaging.headers.heif import read_avif, read_heic
from tintype.imaging.headers.jpeg import read_jpeg
from tintype.imaging.headers.png import read_png
from tintype.imaging.headers.tiff import read_tiff
from tintype.imaging.headers.webp import read_webp
from tintype.model.body import Body
from tintype.model.image import Format
from tintype.settings import ImagingSettings

__all__ = ["Header", "Span", "read_header"]

_READERS: dict[Format, Callable[[Body, ImagingSettings], Header]] = {
    Format.JPEG: read_jpeg,
    Format.PNG: read_png,
    Format.GIF: read_gif,
    Format.WEBP: read_webp,
    Format.AVIF: read_avif,
    Format.TIFF: read_tiff,
    Format.HEIC: read_heic,
}


def read_header(image_format: Format, body: Body, limits: ImagingSettings) -> Header:
    """Return what the file's structure says.

    Raises `ImageCorrupt` for a structure that no decoder can follow, `ImageTooLarge` for what
    breaks a limit, `UnsupportedType` for a coding that is not taken.
    """
    try:
        return _READERS[image_format](body, limits)
    except IndexError as error:  # a walk that led beyond the end
        raise damaged(f"The {image_format.label} ends early.") from error
