-- What the purge looks for, and how far a rebuild from the bucket has come.

CREATE INDEX images_purgeable ON images (deleted_at) WHERE state = 'deleted' AND purged_at IS NULL;

CREATE TABLE rebuilds (
    sole        boolean     PRIMARY KEY DEFAULT true CHECK (sole),
    pair        uuid        NOT NULL,
    cursor      text        COLLATE "C" NOT NULL DEFAULT '', -- every image up to here has its row
    counts      jsonb       NOT NULL DEFAULT '{}',
    position    bigint      NOT NULL, -- of the journal's newest event: the log goes on behind it
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

-- A rebuilt log goes on where the bucket's journal ends.
GRANT UPDATE ON SEQUENCE events_position_seq TO tintype_worker;

CREATE INDEX images_purged ON images (purged_at) WHERE purged_at IS NOT NULL;
