"""Direct uploads that their clients forgot: they end with their time, and give back what they took."""

from pathlib import Path

import pytest

from tintype.catalogue.database import EVERY_OWNER
from tintype.model.errors import UploadGone
from tintype.model.session import Opening, SessionKind
from tintype.settings import Settings
from tintype.wiring import Parts, open_parts


def opening(kind: SessionKind) -> Opening:
    return Opening(owner="anna", kind=kind, length=100, max_bytes=1000, declared_type="image/png")


async def let_pass(parts: Parts, interval: str) -> None:
    """Move every upload into the past."""
    async with parts.database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE uploads SET expires_at = expires_at - %s::interval", [interval])


@pytest.mark.parametrize("kind", [SessionKind.PUT, SessionKind.POST, SessionKind.MULTIPART])
async def test_one_of_which_nothing_came_ends_with_its_time_and_makes_room_for_another(
    kind: SessionKind, database_url: str, tmp_path: Path
) -> None:
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "database": {"url": database_url},
            "imaging": {"inspect": "header"},
            "limits": {"max_unfinished_uploads": 1},
        }
    )
    async with open_parts(settings) as parts:
        forgotten = await parts.direct.open(opening(kind), "http://127.0.0.1")
        await let_pass(parts, "8 days")

        await parts.sessions.sweep()

        with pytest.raises(UploadGone, match="expired"):
            await parts.direct.find("anna", forgotten.session.id)
        await parts.direct.open(opening(kind), "http://127.0.0.1")
