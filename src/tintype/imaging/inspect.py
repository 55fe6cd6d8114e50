"""Inspection: what the bytes are, within which limits, decoded to the last pixel."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from tintype.imaging.cage import Cage
from tintype.imaging.headers import Header, read_header
from tintype.imaging.process import heic_installed
from tintype.imaging.sniff import HEAD_BYTES, describe, sniff
from tintype.model.body import Body
from tintype.model.errors import UnsupportedType, UploadEmpty
from tintype.model.image import Facts, Format
from tintype.settings import ImagingSettings

HEADER_THREADS = 4
"""Of their own: what waits for a network elsewhere in the process must not make uploads wait."""


class Inspector:
    """Judges bytes, in the cage or, without one, by their headers only."""

    def __init__(self, settings: ImagingSettings, cage: Cage | None) -> None:
        self._settings = settings
        self._cage = cage
        self._threads = ThreadPoolExecutor(HEADER_THREADS, thread_name_prefix="headers")
        self._accepted = tuple(each for each in Format if self._accepts(each))

    async def inspect(self, body: Body, owner: str = "") -> Facts:
        """Return what the bytes are. Owners take turns where decoders are busy.

        Raises `UploadEmpty`, `UnsupportedType`, `ImageCorrupt`, `ImageTooLarge`, `DecoderFailed`
        for the bytes, `Overloaded` if there is no decoder to be had.
        """
        image_format = self._recognise(body)
        if image_format is Format.JPEG and body.memory is not None:
            header = read_header(image_format, body, self._settings)  # a few microseconds
        else:
            header = await self._header(image_format, body)
        if self._cage is None:
            return _header_facts(header)
        return await self._cage.decode(body, header, owner)

    async def render(self, body: Body, side: int, owner: str = "") -> bytes | None:
        """Return a small JPEG, up to `side` pixels along a side; None without a cage to decode in.

        Raises what `inspect` raises.
        """
        if self._cage is None:
            return None
        image_format = self._recognise(body)
        header = await self._header(image_format, body)
        return await self._cage.render(body, header, side, owner)

    async def _header(self, image_format: Format, body: Body) -> Header:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, read_header, image_format, body, self._settings)

    def accepted_formats(self) -> tuple[Format, ...]:
        """Return the formats that are taken now."""
        return self._accepted

    def _accepts(self, image_format: Format) -> bool:
        possible = image_format is not Format.HEIC or heic_installed()
        return possible and not self._settings.disabled(image_format)

    def _recognise(self, body: Body) -> Format:
        if body.length == 0:
            raise UploadEmpty("The upload has no bytes. Check the file that you are sending.")
        head = body.read(0, HEAD_BYTES)
        image_format = sniff(head)
        if image_format is not None and image_format in self._accepted:
            return image_format
        if image_format is Format.HEIC and not self._settings.disabled(Format.HEIC):
            raise UnsupportedType(
                "HEIC is not accepted here. Send JPEG instead; whoever runs this service can enable it "
                "with: pip install 'tintype[heic]'"
            )
        kind = image_format.label if image_format else describe(head)
        accepted = ", ".join(each.label for each in self._accepted)
        raise UnsupportedType(
            f"The file is {kind}; accepted are {accepted}.",
            details={"accepted": [each.value for each in self._accepted]},
        )


def _header_facts(header: Header) -> Facts:
    return Facts(
        format=header.format,
        width=header.width,
        height=header.height,
        frames=header.frames,
        orientation=header.orientation,
        has_alpha=header.has_alpha,
    )
