"""An image as JSON: what events carry, what idempotency keeps, what the API shows."""

import base64
from typing import Any

from tintype.model.image import Facts, Image


def facts_payload(facts: Facts) -> dict[str, Any]:
    """Return the facts in JSON types. The location is sealed: it is not among them."""
    return {
        "content_type": facts.format.value,
        "width": facts.width,
        "height": facts.height,
        "frames": facts.frames,
        "orientation": facts.orientation,
        "has_alpha": facts.has_alpha,
        "taken_at": facts.taken_at.isoformat() if facts.taken_at else None,
        "camera": facts.camera,
        "thumbhash": base64.b64encode(facts.thumbhash).decode() if facts.thumbhash else None,
        "dominant_color": facts.dominant_color,
        "phash": f"{facts.phash & (1 << 64) - 1:016x}" if facts.phash is not None else None,
    }


def image_payload(image: Image) -> dict[str, Any]:
    """Return the image in JSON types, without its EXIF (which can be long) and its location."""
    return {
        "id": str(image.id),
        "owner": image.owner,
        "filename": image.filename,
        "extension": image.extension,
        "declared_type": image.declared_type,
        "bytes": image.size,
        "sha256": image.sha256.hex(),
        **facts_payload(image.facts),
        "tags": list(image.tags),
        "attributes": image.attributes,
        "state": image.state.value,
        "protocol": image.protocol,
        "created_at": image.created_at.isoformat(),
        "updated_at": image.updated_at.isoformat(),
        "deleted_at": image.deleted_at.isoformat() if image.deleted_at else None,
        "version": image.version,
    }
