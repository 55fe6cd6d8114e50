"""The pair: a bucket and a database that belong together carry the same identity."""

from uuid import UUID

from tintype.catalogue import identity
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.consistency import journal
from tintype.model.errors import WrongPair
from tintype.model.ids import new_id
from tintype.objects.store import Objects


async def claim(database: Database, objects: Objects) -> UUID:
    """Return the identity that both sides carry; give them one when both are new.

    Raises `WrongPair` before anything is written: a wrong bucket, an empty mount and a restored or
    new database look alike to an upload, and each would scatter images over two places.
    """
    # In this order: another instance that starts at this moment writes them in the other one.
    in_database = await of_database(database)
    in_objects = await objects.read_identity()
    if in_objects == in_database and in_objects is not None:
        await _refuse_restored(database, objects)
        return in_objects
    if in_objects is None and in_database is None:
        return await _introduce(database, objects)
    if in_objects is not None and in_database is None and await is_empty(objects):
        # The first start ended between the two writes of `_introduce`, or is just there.
        return await _record(database, objects, in_objects)
    raise WrongPair(_explain(objects.location, in_objects, in_database))


async def _refuse_restored(database: Database, objects: Objects) -> None:
    """Raise when the bucket's journal knows events that the database does not: they would happen again."""
    standing = await journal.standing(database, objects)
    if standing.behind:
        raise WrongPair(
            f"The database is older than {objects.location}: it knows the log of events up to position "
            f"{standing.database}, the bucket up to {standing.journal}. It was restored from a backup, or is "
            "not the newest one. Name the newest one; if this is all there is, `tintype rebuild --restored` "
            "brings it up to date from the bucket."
        )


async def _introduce(database: Database, objects: Objects) -> UUID:
    if not await is_empty(objects):
        raise WrongPair(
            f"The database is new, but {objects.location} holds images of a Tintype before it. "
            "Name the database that belongs to them, or an empty place for new images. If that database is "
            "lost, `tintype rebuild` makes its rows anew."
        )
    fresh = new_id()
    try:
        await objects.write_identity(fresh)
    except WrongPair:  # an instance that started at the same moment was faster: it gave both theirs
        return await _record(database, objects, await objects.read_identity() or fresh)
    return await _record(database, objects, fresh)


async def _record(database: Database, objects: Objects, pair: UUID) -> UUID:
    async with database.transaction(EVERY_OWNER) as tx:
        standing = await identity.add(tx, pair)
    if standing != pair:
        raise WrongPair(_explain(objects.location, pair, standing))
    return pair


async def of_database(database: Database) -> UUID | None:
    """Return the identity that the database carries."""
    async with database.transaction(EVERY_OWNER) as tx:
        return await identity.find(tx)


async def is_empty(objects: Objects) -> bool:
    """Tell whether the store holds no image."""
    async for page in objects.list("originals/"):
        if page:
            return False
    return True


def _explain(location: str, in_objects: UUID | None, in_database: UUID | None) -> str:
    if in_objects is None:
        return (
            f"The database belongs to object store {in_database}, but {location} has no identity: "
            "it is empty, not mounted, or another one. Mount or name the right one."
        )
    if in_database is None:
        return (
            f"{location} belongs to Tintype {in_objects}, but the database is new. "
            "Name the database that belongs to it, or restore that database. If it is lost, "
            "`tintype rebuild` makes its rows anew; one that was begun goes on."
        )
    return (
        f"{location} belongs to Tintype {in_objects}, the database to {in_database}. "
        "Name the two that belong together."
    )
