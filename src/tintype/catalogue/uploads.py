"""Upload sessions: opened, grown piece by piece, taken over, finished once, swept away.

Every write names the fence that it was begun under, or takes a new one. Time is the database's.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from tintype.catalogue.database import Tx, only
from tintype.catalogue.rows import json_text
from tintype.model.identity import Grant
from tintype.model.image import State
from tintype.model.session import Opening, Piece, Session, SessionKind, SessionState

LIFETIME_DAYS: LiteralString = "7"
"""However active a session is, it ends so long after it was opened."""
TOMBSTONE_DAYS: LiteralString = "2"
"""How long a session that ended without an image is remembered, and can say so."""
STUCK_SECONDS: LiteralString = "300"
"""A session whose bytes are all there, and which nobody finishes, is finished by the sweep."""
STRAGGLERS_SECONDS: LiteralString = "3600"
"""Longer than a request may go on: what it left in the store is looked for once more after that."""

_COLUMNS: LiteralString = """
    id, owner, kind, state, fence, length, received, max_bytes, filename, declared_type, tags, attributes,
    keep_duplicate, digests, metadata, concat, parts, key_id, token, target, image_id,
    (SELECT image.state FROM images AS image WHERE image.id = image_id AND image.owner = uploads.owner),
    problem, created_at, updated_at, expires_at, expires_at <= now()
"""

_ALIVE: LiteralString = "state IN ('open', 'finishing') AND expires_at > now()"
_LATER: LiteralString = f"""
    updated_at = now(),
    expires_at = greatest(expires_at, least(
        now() + make_interval(secs => %(lifetime)s), created_at + interval '{LIFETIME_DAYS} days'
    ))
"""
_SWEEP_SOON: LiteralString = "sweep_at = now()"

# A fence that is lost with a server that crashes costs a request its place, and no byte: whoever waits for
# the disk here would do so in vain. What is told to clients as durable is written without this.
_UNHURRIED: LiteralString = """
    WITH unhurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
"""


async def add(tx: Tx, opening: Opening, lifetime_seconds: float, most: int) -> Session | None:
    """Record a new session; return None when the owner has as many unfinished ones as may be.

    Two at the same moment may both be the last one that fits: the limit is there to stop thousands.
    """
    cursor = await tx.execute(
        f"""
        INSERT INTO uploads (
            id, owner, kind, length, max_bytes, filename, declared_type, tags, attributes, keep_duplicate,
            digests, metadata, concat, parts, key_id, token, target, expires_at)
        SELECT %(id)s, %(owner)s, %(kind)s, %(length)s, %(max_bytes)s, %(filename)s, %(declared_type)s,
            %(tags)s, %(attributes)s::text::jsonb, %(keep_duplicate)s, %(digests)s::text::jsonb, %(metadata)s,
            %(concat)s, %(parts)s, %(key_id)s, %(token)s::text::jsonb, %(target)s::text::jsonb,
            now() + make_interval(secs => %(lifetime)s)
        WHERE (
            SELECT count(*) FROM (
                SELECT FROM uploads WHERE owner = %(owner)s AND state IN ('open', 'finishing') LIMIT %(most)s
            ) AS unfinished
        ) < %(most)s
        RETURNING {_COLUMNS}
        """,
        _values(opening) | {"lifetime": lifetime_seconds, "most": most},
        prepare=True,
    )
    return _maybe(await cursor.fetchone())


async def find(tx: Tx, owner: str, session_id: UUID) -> Session | None:
    """Return a session of the owner's, whatever its state."""
    cursor = await tx.execute(
        f"SELECT {_COLUMNS} FROM uploads WHERE id = %s AND owner = %s", [session_id, owner], prepare=True
    )
    return _maybe(await cursor.fetchone())


async def find_any(tx: Tx, session_id: UUID) -> Session | None:
    """Return a session, whoever's it is: for what asks without an owner, as events of the store do."""
    cursor = await tx.execute(f"SELECT {_COLUMNS} FROM uploads WHERE id = %s", [session_id], prepare=True)
    return _maybe(await cursor.fetchone())


async def settle_offset(tx: Tx, owner: str, session_id: UUID) -> Session | None:
    """Return a session, and let no request that began before change it any more.

    What is told of it stays true until somebody who heard it goes on.
    """
    cursor = await tx.execute(
        f"""
        {_UNHURRIED} UPDATE uploads SET fence = fence + 1 FROM unhurried
        WHERE id = %s AND owner = %s AND state = 'open'
        RETURNING {_COLUMNS}
        """,
        [session_id, owner],
        prepare=True,
    )
    found = _maybe(await cursor.fetchone())
    return found or await find(tx, owner, session_id)


async def take_over(tx: Tx, session: Session) -> Session | None:
    """Take an open session over from whoever writes to it; None when it stands elsewhere by now."""
    cursor = await tx.execute(
        f"""
        {_UNHURRIED} UPDATE uploads SET fence = fence + 1, updated_at = now() FROM unhurried
        WHERE id = %s AND owner = %s AND state = 'open' AND received = %s AND expires_at > now()
        RETURNING {_COLUMNS}
        """,
        [session.id, session.owner, session.received],
        prepare=True,
    )
    return _maybe(await cursor.fetchone())


async def take_back(tx: Tx, session: Session) -> Session | None:
    """Take a session over from whoever is finishing it; None when that has come to an end."""
    cursor = await tx.execute(
        f"""
        UPDATE uploads SET state = 'open', fence = fence + 1, leased_until = NULL, updated_at = now()
        WHERE id = %s AND owner = %s AND state = 'finishing' AND fence = %s
        RETURNING {_COLUMNS}
        """,
        [session.id, session.owner, session.fence],
    )
    return _maybe(await cursor.fetchone())


async def rewind(tx: Tx, session: Session, start: int) -> Session | None:
    """Take back the last piece of a session that is whole, and had no result: it is being sent again.

    None unless the piece that begins at `start` is the last one. What is taken back was never
    acknowledged: the request that brought it failed.
    """
    cursor = await tx.execute(
        f"""
        WITH again AS (
            DELETE FROM upload_pieces AS last
            USING uploads AS upload
            WHERE upload_id = %(id)s AND last.owner = %(owner)s AND start = %(start)s
                AND upload.id = upload_id AND upload.state = 'open' AND upload.fence = %(fence)s
                AND upload.received = start + last.length AND upload.received = upload.length
            RETURNING start
        )
        UPDATE uploads SET received = again.start, fence = fence + 1, updated_at = now()
        FROM again WHERE id = %(id)s AND owner = %(owner)s
        RETURNING {_COLUMNS}
        """,
        {"id": session.id, "owner": session.owner, "start": start, "fence": session.fence},
    )
    return _maybe(await cursor.fetchone())


async def tell_length(tx: Tx, session: Session, length: int) -> Session | None:
    """Record the length of a session that was opened without one; None when it has another one."""
    cursor = await tx.execute(
        f"""
        UPDATE uploads SET length = %(length)s, updated_at = now()
        WHERE id = %(id)s AND owner = %(owner)s AND state = 'open' AND received <= %(length)s
            AND (length IS NULL OR length = %(length)s)
        RETURNING {_COLUMNS}
        """,
        {"id": session.id, "owner": session.owner, "length": length},
    )
    return _maybe(await cursor.fetchone())


async def append(tx: Tx, session: Session, piece: Piece, lifetime_seconds: float) -> Session | None:
    """Add a durable piece at the session's end; None when somebody else has written or taken over."""
    cursor = await tx.execute(
        f"""
        WITH grown AS (
            UPDATE uploads SET received = received + %(count)s, {_LATER}
            WHERE id = %(id)s AND owner = %(owner)s AND state = 'open' AND fence = %(fence)s
                AND received = %(start)s AND expires_at > now()
            RETURNING *
        ), kept AS (
            INSERT INTO upload_pieces (upload_id, owner, start, length, key, data)
            SELECT id, owner, %(start)s, %(count)s, %(key)s, %(data)b FROM grown
        )
        SELECT {_COLUMNS} FROM grown AS uploads
        """,
        {
            "id": session.id,
            "owner": session.owner,
            "fence": session.fence,
            "start": piece.start,
            "count": piece.length,
            "key": piece.key,
            "data": piece.data,
            "lifetime": lifetime_seconds,
        },
        prepare=True,
    )
    return _maybe(await cursor.fetchone())


async def begin_finishing(tx: Tx, session: Session, lease_seconds: float) -> Session | None:
    """Take the session for its last step, from anybody; None when it is not unfinished any more."""
    cursor = await tx.execute(
        f"""
        {_UNHURRIED} UPDATE uploads SET state = 'finishing', fence = fence + 1, updated_at = now(),
            leased_until = now() + make_interval(secs => %s)
        FROM unhurried
        WHERE id = %s AND owner = %s AND state IN ('open', 'finishing')
        RETURNING {_COLUMNS}
        """,
        [lease_seconds, session.id, session.owner],
        prepare=True,
    )
    return _maybe(await cursor.fetchone())


async def reopen(tx: Tx, session: Session, received: int, lifetime_seconds: float) -> None:
    """Let a session go on whose last step failed for a reason that passes."""
    await tx.execute(
        f"""
        UPDATE uploads SET state = 'open', leased_until = NULL, {_LATER}
        WHERE id = %(id)s AND owner = %(owner)s AND state = 'finishing' AND fence = %(fence)s
            AND received <= %(received)s
        """,
        {
            "id": session.id,
            "owner": session.owner,
            "fence": session.fence,
            "received": received,
            "lifetime": lifetime_seconds,
        },
    )


async def complete(tx: Tx, session: Session, image_id: UUID, length: int) -> Session:
    """Record the image that the session became. The image is there, so this holds whoever else came."""
    cursor = await tx.execute(
        f"""
        UPDATE uploads SET state = 'done', image_id = %s, length = %s, received = %s, problem = NULL,
            updated_at = now(), leased_until = NULL,
            -- One request, and the one that finishes: nothing was ever put into the store.
            sweep_at = CASE WHEN kind NOT IN ('tus', 'resumable') OR received > 0 OR fence > 2 THEN now() END
        WHERE id = %s AND owner = %s
        RETURNING {_COLUMNS}
        """,
        [image_id, length, length, session.id, session.owner],
        prepare=True,
    )
    return _session(await only(cursor))


async def reject(tx: Tx, session: Session, problem: dict[str, Any]) -> None:
    """Record why nothing will come of the session, unless it has ended meanwhile."""
    await tx.execute(
        f"""
        UPDATE uploads SET state = 'rejected', problem = %s::text::jsonb, updated_at = now(),
            leased_until = NULL, {_SWEEP_SOON}
        WHERE id = %s AND owner = %s AND state IN ('open', 'finishing')
        """,
        [json_text(problem), session.id, session.owner],
    )


async def abort(tx: Tx, session: Session) -> Session | None:
    """Give a session up; None when it is just being finished, or has been given up before."""
    cursor = await tx.execute(
        f"""
        UPDATE uploads SET state = 'aborted', fence = fence + 1, problem = NULL, updated_at = now(),
            {_SWEEP_SOON}
        WHERE id = %s AND owner = %s AND (
            state IN ('open', 'done', 'rejected') OR (state = 'finishing' AND leased_until < now())
        )
        RETURNING {_COLUMNS}
        """,
        [session.id, session.owner],
    )
    return _maybe(await cursor.fetchone())


async def give_filename(tx: Tx, session: Session, filename: str) -> None:
    """Record the name of a session that was opened without one."""
    await tx.execute(
        "UPDATE uploads SET filename = %s WHERE id = %s AND owner = %s AND filename = '' AND state = 'open'",
        [filename, session.id, session.owner],
    )


async def set_target(tx: Tx, session: Session, target: dict[str, Any]) -> None:
    """Keep a direct upload's own notes."""
    await tx.execute(
        "UPDATE uploads SET target = %s::text::jsonb, updated_at = now() WHERE id = %s AND owner = %s",
        [json_text(target), session.id, session.owner],
    )


async def unfinished(
    tx: Tx, owner: str, limit: int, after: tuple[datetime, UUID] | None = None
) -> list[Session]:
    """Return the owner's unfinished sessions, oldest first, after a place in that order."""
    began, last = after or (None, None)
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM uploads
        WHERE owner = %(owner)s AND {_ALIVE}
            AND (%(began)s::timestamptz IS NULL OR (created_at, id) > (%(began)s, %(last)s))
        ORDER BY created_at, id LIMIT %(limit)s
        """,
        {"owner": owner, "limit": limit, "began": began, "last": last},
    )
    return [_session(row) for row in await cursor.fetchall()]


async def found_among(tx: Tx, owner: str, ids: Sequence[UUID]) -> dict[UUID, Session]:
    """Return those sessions of the owner's that there are, by their ids."""
    cursor = await tx.execute(
        f"SELECT {_COLUMNS} FROM uploads WHERE owner = %s AND id = ANY (%s)", [owner, list(ids)]
    )
    return {each.id: each for each in map(_session, await cursor.fetchall())}


async def pieces(tx: Tx, owner: str, session_id: UUID, start: int, limit: int) -> list[Piece]:
    """Return pieces from a place on, in order: small ones with their bytes."""
    cursor = await tx.execute(
        """
        SELECT start, length, key, data FROM upload_pieces
        WHERE upload_id = %s AND owner = %s AND start >= %s ORDER BY start LIMIT %s
        """,
        [session_id, owner, start, limit],
        binary=True,
        prepare=True,
    )
    return [Piece(*row) for row in await cursor.fetchall()]


async def keys(tx: Tx, owner: str, session_id: UUID) -> list[str]:
    """Return the keys of a session's pieces in the object store."""
    cursor = await tx.execute(
        "SELECT key FROM upload_pieces WHERE upload_id = %s AND owner = %s AND key IS NOT NULL",
        [session_id, owner],
    )
    return [key for (key,) in await cursor.fetchall()]


async def forget_pieces(tx: Tx, owner: str, session_id: UUID) -> None:
    """Forget the pieces of a session that has ended."""
    await tx.execute(
        """
        DELETE FROM upload_pieces WHERE upload_id = %s AND owner = %s AND EXISTS (
            SELECT FROM uploads WHERE uploads.id = upload_id AND state NOT IN ('open', 'finishing')
        )
        """,
        [session_id, owner],
    )


async def due(tx: Tx, limit: int) -> list[Session]:
    """Return unfinished sessions that nobody goes on with: past their time, or whole and left lying."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM uploads
        WHERE state IN ('open', 'finishing') AND (leased_until IS NULL OR leased_until < now())
            AND (expires_at <= now() OR (received = length AND concat IS DISTINCT FROM 'partial'
                AND updated_at < now() - make_interval(secs => {STUCK_SECONDS})))
        ORDER BY expires_at LIMIT %s
        """,
        [limit],
    )
    return [_session(row) for row in await cursor.fetchall()]


async def expire(tx: Tx, session: Session) -> bool:
    """End a session whose time is over; False when somebody has gone on with it meanwhile."""
    cursor = await tx.execute(
        f"""
        UPDATE uploads SET state = 'expired', fence = fence + 1, updated_at = now(), leased_until = NULL,
            {_SWEEP_SOON}
        WHERE id = %s AND owner = %s AND state IN ('open', 'finishing') AND fence = %s
            AND expires_at <= now() AND (leased_until IS NULL OR leased_until < now())
        """,
        [session.id, session.owner, session.fence],
    )
    return cursor.rowcount == 1


async def to_sweep(tx: Tx, limit: int) -> list[Session]:
    """Return ended sessions whose place in the store is to be looked through."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM uploads
        WHERE sweep_at <= now() AND state NOT IN ('open', 'finishing') ORDER BY sweep_at LIMIT %s
        """,
        [limit],
    )
    return [_session(row) for row in await cursor.fetchall()]


async def note_swept(tx: Tx, session: Session) -> None:
    """Note that a session's place was looked through; once more after the last straggler's time."""
    await tx.execute(
        f"""
        UPDATE uploads SET sweep_at = CASE
            WHEN now() < updated_at + make_interval(secs => {STRAGGLERS_SECONDS})
            THEN updated_at + make_interval(secs => {STRAGGLERS_SECONDS} + 1)
        END
        WHERE id = %s AND owner = %s
        """,
        [session.id, session.owner],
    )


async def forget(tx: Tx, limit: int) -> int:
    """Forget some of the sessions that ended without an image days ago, and return how many."""
    cursor = await tx.execute(
        f"""
        DELETE FROM uploads WHERE id IN (
            SELECT id FROM uploads
            WHERE state IN ('rejected', 'expired', 'aborted') AND sweep_at IS NULL
                AND updated_at < now() - interval '{TOMBSTONE_DAYS} days'
            LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        [limit],
    )
    return cursor.rowcount


def _values(opening: Opening) -> dict[str, Any]:
    grant = opening.grant
    return {
        "id": opening.id,
        "owner": opening.owner,
        "kind": str(opening.kind),
        "length": opening.length,
        "max_bytes": opening.max_bytes,
        "filename": opening.filename,
        "declared_type": opening.declared_type,
        "tags": list(opening.tags),
        "attributes": json_text(opening.attributes),
        "keep_duplicate": opening.keep_duplicate,
        "digests": json_text({name: digest.hex() for name, digest in opening.digests.items()}),
        "metadata": opening.metadata,
        "concat": opening.concat,
        "parts": list(opening.parts),
        "key_id": opening.key_id,
        "token": None if grant is None else json_text(_token(grant)),
        "target": json_text(dict(opening.target)),
    }


def _token(grant: Grant) -> dict[str, Any]:
    return {
        "id": str(grant.token_id),
        "types": sorted(grant.types),
        "max_bytes": grant.max_bytes,
        "uses": grant.uses,
        "tags": list(grant.tags),
    }


def _grant(token: dict[str, Any] | None) -> Grant | None:
    if token is None:
        return None
    return Grant(
        token_id=UUID(token["id"]),
        types=frozenset(token["types"]),
        max_bytes=token["max_bytes"],
        uses=token["uses"],
        tags=tuple(token["tags"]),
    )


def _maybe(row: tuple[Any, ...] | None) -> Session | None:
    return None if row is None else _session(row)


def _session(row: tuple[Any, ...]) -> Session:
    (
        session_id, owner, kind, state, fence, length, received, max_bytes, filename, declared_type, tags,
        attributes, keep_duplicate, digests, metadata, concat, parts, key_id, token, target, image_id,
        image_state, problem, created_at, updated_at, expires_at, is_overdue,
    ) = row  # fmt: skip
    return Session(
        id=session_id,
        owner=owner,
        kind=SessionKind(kind),
        state=SessionState(state),
        fence=fence,
        length=length,
        received=received,
        max_bytes=max_bytes,
        filename=filename,
        declared_type=declared_type,
        tags=tuple(tags),
        attributes=attributes,
        keep_duplicate=keep_duplicate,
        digests={name: bytes.fromhex(digest) for name, digest in digests.items()},
        metadata=metadata,
        concat=concat,
        parts=tuple(parts),
        key_id=key_id,
        grant=_grant(token),
        target=target,
        image_id=image_id,
        image_state=None if image_state is None else State(image_state),
        problem=problem,
        created_at=created_at,
        updated_at=updated_at,
        expires_at=expires_at,
        is_overdue=is_overdue,
    )
