"""Links that lead back to us, signed with HMAC-SHA256: for stores that cannot answer by themselves."""

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from uuid import UUID

from tintype.model.errors import LinkInvalid
from tintype.model.image import Image


@dataclass(frozen=True, slots=True)
class LocalLinks:
    """`Links` to `/v1/images/{id}/content`. Who knows the secret can make them; it is never shown."""

    secret: bytes = field(repr=False)

    async def sign(self, image: Image, key: str, *, expires_in: int, base_url: str, attachment: bool) -> str:
        """Return a link; `key` does not show in it."""
        del key
        expires = int(time.time()) + expires_in
        address = f"{base_url.rstrip('/')}/v1/images/{image.id}/content"
        # How the bytes are shown is not signed: it is harmless, since they are never run.
        shown = "" if attachment else "&disposition=inline"
        return f"{address}?expires={expires}&signature={self._signature(image.id, expires)}{shown}"

    def verify(self, image_id: UUID, expires: int | None, signature: str) -> None:
        """Raise `LinkInvalid` unless the link is ours, for this image, and has not expired."""
        ours = self._signature(image_id, expires or 0).encode()
        if not hmac.compare_digest(ours, signature.encode(errors="replace")):
            raise LinkInvalid("The link is not one of ours, or was changed. Copy all of it.")
        if expires is None or expires < time.time():
            raise LinkInvalid("The link has expired. Ask for a new one.")

    def _signature(self, image_id: UUID, expires: int) -> str:
        message = f"tintype link 1\n{image_id}\n{expires}".encode()
        digest = hmac.digest(self.secret, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
