"""File names as senders give them: kept readable, never used as a path."""

import re
import unicodedata

from tintype.model.image import Format

MAX_BYTES = 255
"""In UTF-8: what file systems take, so that a download can be saved under its name."""

_EXTENSION = re.compile(r"[a-z0-9]{1,16}")
# Controls, surrogates, private use, and the format characters that hide or reorder text (bidi marks).
_UNWANTED = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def clean_filename(raw: str) -> str:
    r"""Return the last path segment of a name, without what a terminal, header or log would obey.

    Both `/` and `\` separate: browsers on Windows used to send whole paths. The result may be empty.
    """
    segment = re.split(r"[/\\]", raw)[-1]
    visible = "".join(c for c in segment if unicodedata.category(c) not in _UNWANTED)
    name = unicodedata.normalize("NFC", visible).strip()
    return _shorten("" if name.strip(".") == "" else name)


def extension_of(filename: str, image_format: Format) -> str:
    """Return the name's extension in lower case, or the format's where the name has no usable one."""
    stem, dot, extension = filename.rpartition(".")
    if dot and stem and _EXTENSION.fullmatch(extension.lower()):
        return extension.lower()
    return image_format.extension


def default_filename(image_format: Format) -> str:
    """Return the name of an image that came without one."""
    return f"image.{image_format.extension}"


def _shorten(name: str) -> str:
    """Cut a name to `MAX_BYTES`, sparing its extension."""
    if len(name.encode()) <= MAX_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    suffix = f"{dot}{extension}" if stem and _EXTENSION.fullmatch(extension.lower()) else ""
    room = MAX_BYTES - len(suffix.encode())
    return name.encode()[:room].decode(errors="ignore") + suffix
