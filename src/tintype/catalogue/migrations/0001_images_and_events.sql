-- Images, the log of what became of them, the answers to repeated requests, and the pair's identity.

CREATE FUNCTION began_at(attempt uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    -- The 48 bits of milliseconds that a UUIDv7 begins with (RFC 9562, section 5.7).
    RETURN to_timestamp(('x' || translate(left(attempt::text, 13), '-', ''))::bit(48)::bigint / 1000.0);

CREATE FUNCTION owned_tags(owner text, tags text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    -- What the index on tags holds, so that one owner's search does not read through another's images.
    RETURN ARRAY(SELECT owner || E'\x1f' || tag FROM unnest(tags) AS tag);

CREATE TABLE images (
    id             uuid             PRIMARY KEY,
    owner          text             COLLATE "C" NOT NULL,
    state          text             COLLATE "C" NOT NULL
                                    CHECK (state IN ('ready', 'deleted', 'missing', 'corrupt')),
    canonical      boolean          NOT NULL, -- the one of the owner's ready images that answers for its bytes
    version        integer          NOT NULL DEFAULT 1,
    filename       text             COLLATE "C" NOT NULL,
    extension      text             COLLATE "C" NOT NULL,
    declared_type  text             COLLATE "C",
    content_type   text             COLLATE "C" NOT NULL,
    bytes          bigint           NOT NULL CHECK (bytes > 0),
    sha256         bytea            NOT NULL CHECK (octet_length(sha256) = 32),
    etag           text             COLLATE "C" NOT NULL,
    width          integer          NOT NULL,
    height         integer          NOT NULL,
    frames         integer          NOT NULL,
    orientation    smallint         NOT NULL CHECK (orientation BETWEEN 1 AND 8),
    has_alpha      boolean,
    taken_at       timestamp,                 -- by the camera's clock
    taken_offset   integer,                   -- minutes east of UTC, where the camera recorded its zone
    camera         jsonb            NOT NULL,
    exif           jsonb            NOT NULL,
    location       jsonb,                     -- sealed: read by nothing that answers a request
    thumbhash      bytea,
    dominant_color text             COLLATE "C",
    phash          bigint,
    tags           text[]           COLLATE "C" NOT NULL,
    attributes     jsonb            NOT NULL,
    search         text             COLLATE "C" NOT NULL, -- name and tags, folded, for `q`
    protocol       text             COLLATE "C" NOT NULL,
    created_at     timestamptz      NOT NULL DEFAULT now(),
    updated_at     timestamptz      NOT NULL DEFAULT now(),
    deleted_at     timestamptz      CHECK ((deleted_at IS NOT NULL) = (state = 'deleted')),
    random_key     double precision NOT NULL DEFAULT random(),
    CHECK (state = 'ready' OR NOT canonical)
);

-- The owner comes first in every index, so that row-level security can be added without new plans.
-- Its condition is none of the others', so that a look for bytes can take no other index than this one,
-- not even when it is planned on an empty table.
CREATE UNIQUE INDEX images_canonical ON images (owner, sha256) WHERE canonical;
CREATE INDEX images_copies ON images (owner, sha256) WHERE state = 'ready' AND NOT canonical;
CREATE INDEX images_created ON images (owner, created_at, id) WHERE state = 'ready';
CREATE INDEX images_bytes ON images (owner, bytes, id) WHERE state = 'ready';
CREATE INDEX images_filename ON images (owner, filename, id) WHERE state = 'ready';
CREATE INDEX images_random ON images (owner, random_key) WHERE state = 'ready';
CREATE INDEX images_random_extension ON images (owner, extension, random_key) WHERE state = 'ready';
CREATE INDEX images_tags ON images USING gin (owned_tags(owner, tags))
    WITH (fastupdate = off) -- no list of pending entries for every search to read through
    WHERE state = 'ready' AND tags <> '{}';
CREATE INDEX images_trash ON images (owner, created_at, id) WHERE state = 'deleted';

CREATE TABLE events (
    -- Before `position`: a transaction has its number before it takes a place in the log, so that readers
    -- can tell which places may still be filled (see events.py).
    txid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
    position        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              uuid        NOT NULL UNIQUE,
    kind            text        COLLATE "C" NOT NULL,
    image_id        uuid        NOT NULL,
    owner           text        COLLATE "C" NOT NULL,
    version         integer     NOT NULL,
    payload         jsonb       NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    published_at    timestamptz,
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    last_error      text
) WITH (autovacuum_vacuum_scale_factor = 0.02); -- each row is written twice within a second

CREATE INDEX events_of_owner ON events (owner, position);
CREATE INDEX events_due ON events (next_attempt_at, position) WHERE published_at IS NULL;
CREATE INDEX events_unpublished ON events (created_at) WHERE published_at IS NULL;

CREATE TABLE idempotency (
    owner       text        COLLATE "C" NOT NULL,
    key         text        COLLATE "C" NOT NULL,
    fingerprint bytea       NOT NULL,
    image_id    uuid        NOT NULL,
    kind        text        COLLATE "C" NOT NULL CHECK (kind IN ('stored', 'duplicate')),
    snapshot    jsonb       NOT NULL, -- the image as it was answered
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, key)
);

CREATE TABLE identity (
    sole boolean PRIMARY KEY DEFAULT true CHECK (sole),
    id   uuid    NOT NULL
);
