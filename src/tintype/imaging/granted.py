"""What an upload token grants, held against the bytes that its holder sent."""

from tintype.imaging.sniff import HEAD_BYTES, sniff
from tintype.model.body import Body
from tintype.model.errors import UnsupportedType, UploadTooLarge
from tintype.model.identity import Grant


def hold_against(grant: Grant, body: Body) -> None:
    """Raise `UploadTooLarge` or `UnsupportedType` for bytes that the token is not good for."""
    if body.length > grant.max_bytes:
        raise UploadTooLarge(
            f"The upload token is good for up to {grant.max_bytes} bytes.", details={"limit": grant.max_bytes}
        )
    kind = sniff(body.read(0, HEAD_BYTES))
    if grant.types and (kind is None or kind.value not in grant.types):
        accepted = sorted(grant.types)
        raise UnsupportedType(
            f"The upload token is good for {', '.join(accepted)}.", details={"accepted": accepted}
        )
