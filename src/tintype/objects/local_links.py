"""Links that lead back to us, signed with HMAC-SHA256: for stores that cannot answer, and for mails."""

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from tintype.model.errors import LinkInvalid
from tintype.model.image import Image

# How the bytes are shown, and who sends them, is not signed: it is harmless, since they are never run.
INLINE = "&disposition=inline"
REDIRECT = "&redirect=true"


@dataclass(frozen=True, slots=True)
class LocalLinks:
    """`Links` to `/v1/images/{id}/content`. Who knows the secret can make them; it is never shown."""

    secret: bytes = field(repr=False)

    async def sign(self, image: Image, key: str, *, expires_in: int, base_url: str, attachment: bool) -> str:
        """Return a link; `key` does not show in it."""
        del key
        expires = int(time.time()) + expires_in
        return self.address(image.id, expires, base_url) + ("" if attachment else INLINE)

    def address(self, image_id: UUID, expires: int, base_url: str) -> str:
        """Return a link that works until a moment, in seconds since 1970."""
        signature = self._signature(image_id, expires)
        return f"{base_url.rstrip('/')}/v1/images/{image_id}/content?expires={expires}&signature={signature}"

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


@dataclass(frozen=True, slots=True)
class MailedLinks:
    """Links in mails, which outlive what S3 would sign: with an instance's role, that is hours."""

    links: LocalLinks
    base_url: str
    """How people reach the service."""
    seconds: int
    """How long a link works."""
    in_bucket: bool
    """S3 sends the bytes, by a link of a few minutes that is made when somebody comes."""

    def to(self, image_id: UUID) -> tuple[str, datetime]:
        """Return a link that shows an image, and until when."""
        expires = int(time.time()) + self.seconds
        address = self.links.address(image_id, expires, self.base_url) + INLINE
        if self.in_bucket:
            address += REDIRECT
        return address, datetime.fromtimestamp(expires, UTC)
