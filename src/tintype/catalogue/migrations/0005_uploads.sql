-- Uploads that take more than one request: what has arrived of each, and what became of it.

CREATE TABLE uploads (
    id             uuid        PRIMARY KEY,
    owner          text        COLLATE "C" NOT NULL,
    kind           text        COLLATE "C" NOT NULL
                               CHECK (kind IN ('tus', 'resumable', 'put', 'post', 'multipart')),
    state          text        COLLATE "C" NOT NULL DEFAULT 'open'
                               CHECK (state IN ('open', 'finishing', 'done', 'rejected', 'expired', 'aborted')),
    fence          integer     NOT NULL DEFAULT 0, -- a write under an older number fails
    length         bigint      CHECK (length >= 0), -- null: not told yet
    received       bigint      NOT NULL DEFAULT 0 CHECK (received BETWEEN 0 AND coalesce(length, received)),
    max_bytes      bigint      NOT NULL CHECK (max_bytes > 0),
    filename       text        COLLATE "C" NOT NULL,
    declared_type  text        COLLATE "C",
    tags           text[]      COLLATE "C" NOT NULL,
    attributes     jsonb       NOT NULL,
    keep_duplicate boolean     NOT NULL,
    digests        jsonb       NOT NULL, -- announced for the whole, in hex by algorithm
    metadata       text        COLLATE "C", -- as sent, to be sent back
    concat         text        COLLATE "C", -- `partial`, or `final;` and the addresses, as sent
    parts          uuid[]      NOT NULL DEFAULT '{}', -- of a concatenation
    key_id         text        COLLATE "C", -- whose credentials began it
    token          jsonb, -- what an upload token grants, where one began it
    target         jsonb       NOT NULL DEFAULT '{}', -- where a direct upload goes
    image_id       uuid, -- of one that is done, unless it is a part
    problem        jsonb, -- of one that was rejected
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    leased_until   timestamptz, -- while it is being finished
    sweep_at       timestamptz, -- when what it left in the store is to be looked for
    CHECK ((problem IS NOT NULL) = (state = 'rejected'))
) WITH (autovacuum_vacuum_scale_factor = 0.02); -- each row is written many times

CREATE INDEX uploads_unfinished ON uploads (owner, created_at, id) WHERE state IN ('open', 'finishing');
CREATE INDEX uploads_expiring ON uploads (expires_at) WHERE state IN ('open', 'finishing');
CREATE INDEX uploads_complete ON uploads (updated_at)
    WHERE state IN ('open', 'finishing') AND received = length;
CREATE INDEX uploads_sweeping ON uploads (sweep_at) WHERE sweep_at IS NOT NULL;
CREATE INDEX uploads_ended ON uploads (updated_at) WHERE state IN ('rejected', 'expired', 'aborted');

-- The bytes of an upload that are durable: small pieces themselves, larger ones by their object's key.
CREATE TABLE upload_pieces (
    upload_id uuid    NOT NULL REFERENCES uploads ON DELETE CASCADE,
    owner     text    COLLATE "C" NOT NULL,
    start     bigint  NOT NULL CHECK (start >= 0),
    length    bigint  NOT NULL CHECK (length > 0),
    key       text    COLLATE "C",
    data      bytea   CHECK ((data IS NULL) <> (key IS NULL)),
    PRIMARY KEY (upload_id, start)
);

-- Images do not get smaller by compression.
ALTER TABLE upload_pieces ALTER COLUMN data SET STORAGE EXTERNAL;

SELECT secure_rows('uploads', 'SELECT, INSERT, UPDATE, DELETE');
SELECT secure_rows('upload_pieces', 'SELECT, INSERT, UPDATE, DELETE');
