"""Links: addresses of an image's bytes that need no credentials, and expire."""

from typing import Protocol

from tintype.model.image import Image


class Links(Protocol):
    """Makes links."""

    async def sign(self, image: Image, key: str, *, expires_in: int, base_url: str, attachment: bool) -> str:
        """Return an address of the bytes under `key` that works for `expires_in` seconds.

        It answers with the image's own type and file name, to be saved (`attachment`) or shown.
        `base_url` is how the client reached us. Raises `StorageUnavailable`.
        """
        ...
