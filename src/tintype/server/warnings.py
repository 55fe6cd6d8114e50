"""Warnings: where what the sender said of an image and what its bytes are do not agree."""

from tintype.model.image import Format, Image

_EXTENSIONS = {
    Format.JPEG: {"jpg", "jpeg", "jpe", "jfif", "mpo"},
    Format.PNG: {"png", "apng"},
    Format.GIF: {"gif"},
    Format.WEBP: {"webp"},
    Format.AVIF: {"avif", "avifs"},
    Format.TIFF: {"tif", "tiff"},
    Format.HEIC: {"heic", "heif", "hif", "heics"},
}
_TYPES = {
    Format.JPEG: {"image/jpeg", "image/jpg", "image/pjpeg", "image/jpe", "image/mpo"},
    Format.PNG: {"image/png", "image/x-png", "image/apng", "image/vnd.mozilla.apng"},
    Format.GIF: {"image/gif"},
    Format.WEBP: {"image/webp"},
    Format.AVIF: {"image/avif", "image/avif-sequence"},
    Format.TIFF: {"image/tiff", "image/tif", "image/x-tiff"},
    Format.HEIC: {"image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence"},
}
_SAYS_NOTHING = {
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-www-form-urlencoded",
    "image/*",
}

_LONGEST_TYPE = 127
"""Characters of a media type's name, as RFC 6838, section 4.2 limits each half of it."""


def warnings_of(image: Image) -> list[dict[str, str]]:
    """Return a warning for a declared type and for an extension that the bytes contradict."""
    actual = image.facts.format
    found: list[dict[str, str]] = []
    if image.declared_type is not None and image.declared_type not in _TYPES[actual]:
        found.append(
            {
                "code": "type_mismatch",
                "detail": f"Declared as {image.declared_type}, the bytes are {actual} and served so.",
            }
        )
    if image.extension not in _EXTENSIONS[actual]:
        found.append(
            {
                "code": "extension_mismatch",
                "detail": f"The name ends in .{image.extension}, the bytes are {actual} and served so.",
            }
        )
    return found


def declared_type_of(header: str | None) -> str | None:
    """Return the media type that a sender declared, or None where it says nothing about the bytes."""
    if header is None:
        return None
    declared = header.partition(";")[0].strip().lower()
    if not declared or declared in _SAYS_NOTHING or len(declared) > _LONGEST_TYPE or not declared.isascii():
        return None
    return declared
