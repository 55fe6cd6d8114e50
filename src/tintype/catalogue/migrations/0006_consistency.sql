-- What checks found, what repairs did about it, and what undoes that.

-- `purged_at`: the bytes of an image in the trash are gone for good, and its row says no more than that.
ALTER TABLE images ADD COLUMN last_verified_at timestamptz, ADD COLUMN purged_at timestamptz;

CREATE FUNCTION shard_of(image uuid) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    -- The last byte, which is random in a UUIDv7, and which the object's key begins with.
    RETURN get_byte(uuid_send(image), 15);

-- What a check walks: the rows of a shard in the order of their keys, and the images read longest ago.
CREATE INDEX images_shard ON images (shard_of(id), id) INCLUDE (bytes, etag)
    WHERE state IN ('ready', 'deleted') AND purged_at IS NULL;
CREATE INDEX images_unverified ON images (last_verified_at NULLS FIRST, id) WHERE state = 'ready';

CREATE TABLE check_runs (
    id          uuid        PRIMARY KEY,
    mode        text        COLLATE "C" NOT NULL CHECK (mode IN ('quick', 'full', 'deep')),
    task        text        COLLATE "C" NOT NULL CHECK (task IN ('check', 'repair', 'undo')),
    state       text        COLLATE "C" NOT NULL
                            CHECK (state IN ('running', 'complete', 'stopped', 'failed', 'cancelled')),
    repair      boolean     NOT NULL, -- whether a repair follows the check
    dry_run     boolean     NOT NULL,
    adopting    boolean     NOT NULL,
    confirmed   boolean     NOT NULL, -- a person has seen what the brakes stopped at
    selected    uuid[],               -- the findings that a repair keeps to
    reason      text,
    asked_by    text        COLLATE "C" NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    checked_at  timestamptz,          -- when everything had been looked at
    finished_at timestamptz
);

CREATE UNIQUE INDEX check_runs_running ON check_runs ((state)) WHERE state = 'running';

-- The pieces of a run, each with its checkpoint. Whoever works on one holds a lease; every write names the
-- fence, which the next holder raises.
CREATE TABLE check_shards (
    run_id       uuid        NOT NULL REFERENCES check_runs ON DELETE CASCADE,
    name         text        COLLATE "C" NOT NULL,
    cursor       text        COLLATE "C" NOT NULL DEFAULT '',
    finished_at  timestamptz,
    fence        bigint      NOT NULL DEFAULT 0,
    lease_until  timestamptz,
    failures     integer     NOT NULL DEFAULT 0,
    objects      bigint      NOT NULL DEFAULT 0,
    rows         bigint      NOT NULL DEFAULT 0,
    foreign_keys bigint      NOT NULL DEFAULT 0,
    young        bigint      NOT NULL DEFAULT 0,
    verified     bigint      NOT NULL DEFAULT 0,
    bytes_read   bigint      NOT NULL DEFAULT 0,
    newest       uuid,                -- of the objects
    PRIMARY KEY (run_id, name)
);

CREATE TABLE findings (
    id         uuid        PRIMARY KEY,
    run_id     uuid        NOT NULL REFERENCES check_runs ON DELETE CASCADE,
    kind       text        COLLATE "C" NOT NULL,
    key        text        COLLATE "C" NOT NULL,
    image_id   uuid,
    state      text        COLLATE "C" NOT NULL DEFAULT 'open'
                           CHECK (state IN ('open', 'repaired', 'skipped', 'undone')),
    action     text        COLLATE "C",
    note       text,
    details    jsonb       NOT NULL,
    before     jsonb,                 -- what an undo brings back
    found_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at timestamptz,
    UNIQUE (run_id, kind, key)
);

CREATE INDEX findings_of_run ON findings (run_id, id);

-- What a repair took out of its place. `moving`: perhaps still in both places.
CREATE TABLE quarantine (
    id         uuid        PRIMARY KEY,
    finding_id uuid        NOT NULL,
    image_id   uuid,
    key        text        COLLATE "C" NOT NULL,
    held_key   text        COLLATE "C" NOT NULL UNIQUE,
    bytes      bigint      NOT NULL,
    state      text        COLLATE "C" NOT NULL
                           CHECK (state IN ('moving', 'held', 'returned', 'expired')),
    moved_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX quarantine_of_image ON quarantine (image_id) WHERE state IN ('moving', 'held');
CREATE INDEX quarantine_of_finding ON quarantine (finding_id);
CREATE INDEX quarantine_held ON quarantine (moved_at) INCLUDE (bytes) WHERE state IN ('moving', 'held');
