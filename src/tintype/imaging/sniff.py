"""Which format the bytes begin like. Only offset 0 counts: a picture behind something else is not one."""

import re

from tintype.model.image import Format

HEAD_BYTES = 4096
"""How much of a file `sniff` and `describe` look at; they make do with less."""

_SIGNATURES = (
    (b"\xff\xd8\xff", Format.JPEG),
    (b"\x89PNG\r\n\x1a\n", Format.PNG),
    (b"GIF87a", Format.GIF),
    (b"GIF89a", Format.GIF),
    (b"II*\x00", Format.TIFF),
    (b"MM\x00*", Format.TIFF),
    (b"II+\x00\x08\x00\x00\x00", Format.TIFF),  # BigTIFF
    (b"MM\x00+\x00\x08\x00\x00", Format.TIFF),
)

# Brands that name a codec (AV1 Image File Format 1.1, section 8; ISO/IEC 23008-12, annexes B and E).
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis", b"avio", b"MA1A", b"MA1B"), Format.AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), Format.HEIC),
    **dict.fromkeys((b"MiHB", b"MiHE", b"MiHA"), Format.HEIC),
}
# Brands that say "images", of whatever codec: the items decide.
_IMAGE_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf", b"mif3"}
_ITEM_TYPES = {b"av01": Format.AVIF, b"hvc1": Format.HEIC, b"hev1": Format.HEIC}
_ITEM_TYPE = re.compile(rb"infe.{8,12}?(av01|hvc1|hev1)", re.DOTALL)


def sniff(head: bytes) -> Format | None:
    """Return the accepted format whose signature the bytes have at offset 0, or None."""
    for signature, image_format in _SIGNATURES:
        if head.startswith(signature):
            # Canon's raw files are TIFF with a mark of their own, and no TIFF decoder shows their picture.
            return None if head[8:10] == b"CR" and image_format is Format.TIFF else image_format
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return Format.WEBP
    if head[4:8] == b"ftyp":
        return _sniff_brands(head)
    return None


def _sniff_brands(head: bytes) -> Format | None:
    """Decide between AVIF and HEIC: the first brand that names a codec, else the first coded item."""
    brands = _brands(head)
    for brand in brands:
        if brand in _BRANDS:
            return _BRANDS[brand]
    item = _ITEM_TYPE.search(head)
    if item and _IMAGE_BRANDS.intersection(brands):
        return _ITEM_TYPES[item[1]]
    return None


def _brands(head: bytes) -> list[bytes]:
    """Return the major brand and the compatible ones (ISO/IEC 14496-12, section 4.3)."""
    end = min(int.from_bytes(head[:4]), len(head))
    return [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]


# What people send by mistake, and what attackers send on purpose, by its name.
_KNOWN = (
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"BM", "BMP"),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]", "ICO"),
    (rb"8BPS", "Photoshop (PSD)"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (rb"II\xbc", "JPEG XR"),
    (rb"II[*]\x00.{4}CR|II\x1a\x00\x00\x00HEAPCCDR|FUJIFILMCCD-RAW|IIU\x00|IIR[OS]|FOVb", "camera raw"),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x09\x00\x00", "WMF"),
    (rb"\x01\x00\x00\x00.{36} EMF", "EMF"),
    (rb"P[1-7]\s|P[Ff]\s", "PNM"),
    (rb"#\?(RADIANCE|RGBE)", "Radiance HDR"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"DDS ", "DDS"),
    (rb"qoif", "QOI"),
    (rb"[\x8a\x8b][MJ]NG\r\n", "MNG"),
    (rb"gimp xcf", "GIMP (XCF)"),
    (rb"AT&TFORM", "DjVu"),
    (rb"PK\x03\x04|PK\x05\x06", "ZIP"),
    (rb"\x1f\x8b", "gzip"),
    (rb"BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "an archive"),
    (rb"RIFF.{4}AVI ", "AVI"),
    (rb"RIFF.{4}WAVE|ID3|\xff[\xfb\xf3\xf2\xfa]|fLaC|OggS", "audio"),
    (rb"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (rb".{4}ftyp(mif1|msf1|miaf|avci|avcs|jpeg|j2ki|vvic)", "HEIF with a codec other than AV1 and HEVC"),
    (rb".{4}ftyp|.{4}(moov|mdat|wide)", "MP4 or QuickTime"),
    (rb"\x7fELF|MZ|\xcf\xfa\xed\xfe|\xfe\xed\xfa", "a program"),
    (rb"\{\\rtf", "RTF"),
    (rb"\xd0\xcf\x11\xe0", "a Microsoft Office document"),
    (rb"SIMPLE  =", "FITS"),
    (rb"#!", "a script"),
)
_KNOWN_PATTERNS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _KNOWN)
_TEXTS = (
    (re.compile(rb"<svg[\s/>]|<!DOCTYPE\s+svg|<\w+:svg[\s/>]", re.IGNORECASE), "SVG"),
    (re.compile(rb"<(!DOCTYPE\s+html|html|head|body|script)\b", re.IGNORECASE), "HTML"),
    (re.compile(rb"<\?php", re.IGNORECASE), "PHP"),
    (re.compile(rb"^(<\?xml|<[a-z!])", re.IGNORECASE), "XML"),
)
_BOM_AND_SPACE = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"


def describe(head: bytes) -> str:
    """Name a kind that is not accepted, for the sentence that says so; "not an image" if unknown."""
    for pattern, name in _KNOWN_PATTERNS:
        if pattern.match(head):
            return name
    text = head.replace(b"\x00", b"").lstrip(_BOM_AND_SPACE)  # UTF-16 becomes readable too
    if text.startswith(b"<"):
        for pattern, name in _TEXTS:
            if pattern.search(text):
                return name
    return "not an image"
