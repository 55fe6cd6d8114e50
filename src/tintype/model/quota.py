"""Quotas: how much an owner may have stored, and how much is."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Quota:
    """An owner's limits; None: no limit of that kind."""

    max_bytes: int | None = None
    max_images: int | None = None

    @property
    def is_limit(self) -> bool:
        """Whether it limits anything."""
        return self.max_bytes is not None or self.max_images is not None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an owner has: what is stored, the trash included, and room for what is on its way."""

    bytes: int = 0
    images: int = 0
    reserved_bytes: int = 0
    reserved_images: int = 0

    def without(self, size: int, images: int) -> "Usage":
        """Return the usage with so much less room reserved."""
        return replace(
            self, reserved_bytes=self.reserved_bytes - size, reserved_images=self.reserved_images - images
        )

    def leaves(self, quota: Quota, size: int, images: int) -> bool:
        """Tell whether so many more fit."""
        fits_bytes = quota.max_bytes is None or self.bytes + self.reserved_bytes + size <= quota.max_bytes
        fits_images = (
            quota.max_images is None or self.images + self.reserved_images + images <= quota.max_images
        )
        return fits_bytes and fits_images
