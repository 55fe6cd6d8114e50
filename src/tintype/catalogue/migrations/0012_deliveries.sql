-- Who is told of what by ourselves, what became of it, and whose turn it is.

-- Up to where the log of events has been turned into deliveries. Events of before are nobody's news.
CREATE TABLE fan_out (
    sole     boolean PRIMARY KEY DEFAULT true CHECK (sole),
    position bigint  NOT NULL
);

SET LOCAL row_security = on;
SET LOCAL ROLE tintype_worker;
INSERT INTO fan_out (position) SELECT coalesce(max(position), 0) FROM events;
RESET ROLE;

-- One event for one subscription, or something else that it is told: once each, whoever tries.
CREATE TABLE deliveries (
    owner           text        COLLATE "C" NOT NULL,
    subscription_id uuid        NOT NULL,
    id              uuid        NOT NULL, -- the event's: what receivers know it by
    position        bigint,               -- in the log; of what is no event: none
    image_id        uuid,
    kind            text        COLLATE "C" NOT NULL, -- the event's; or confirmation, test
    state           text        COLLATE "C" NOT NULL DEFAULT 'pending'
                                CHECK (state IN ('pending', 'delivered', 'dead', 'cancelled')),
    attempts        integer     NOT NULL DEFAULT 0,
    step            integer     NOT NULL DEFAULT 0,   -- in the plan of retries, which a replay begins anew
    bundle          uuid,                             -- the mail that it went into, with others
    created_at      timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    settled_at      timestamptz CHECK ((settled_at IS NULL) = (state = 'pending')),
    last_status     integer,
    last_error      text,
    PRIMARY KEY (subscription_id, id),
    FOREIGN KEY (owner, subscription_id) REFERENCES subscriptions (owner, id) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.02); -- each row is written twice within a second

CREATE INDEX deliveries_pending ON deliveries (subscription_id, next_attempt_at, position)
    WHERE state = 'pending';
CREATE INDEX deliveries_in_order ON deliveries (subscription_id, image_id, position) WHERE state = 'pending';
CREATE INDEX deliveries_of_subscription ON deliveries (owner, subscription_id, created_at, id);
CREATE INDEX deliveries_settled ON deliveries (settled_at) WHERE state <> 'pending';

CREATE TABLE delivery_attempts (
    owner           text        COLLATE "C" NOT NULL,
    subscription_id uuid        NOT NULL,
    delivery_id     uuid        NOT NULL,
    number          integer     NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    milliseconds    integer     NOT NULL,
    status          integer,
    error           text,                 -- none: it was delivered
    PRIMARY KEY (subscription_id, delivery_id, number),
    FOREIGN KEY (subscription_id, delivery_id) REFERENCES deliveries (subscription_id, id) ON DELETE CASCADE
);

-- A subscription with deliveries to make. One worker at a time has it, and so keeps their order.
CREATE TABLE delivery_lanes (
    owner           text        COLLATE "C" NOT NULL,
    subscription_id uuid        PRIMARY KEY,
    due_at          timestamptz,                              -- none: nothing waits
    not_before      timestamptz NOT NULL DEFAULT '-infinity', -- a pause after failures, or between mails
    leased_until    timestamptz NOT NULL DEFAULT '-infinity',
    fence           bigint      NOT NULL DEFAULT 0,           -- raised by each worker that takes it
    failures        integer     NOT NULL DEFAULT 0,           -- in a row
    failing_since   timestamptz,
    mailed_at       timestamptz,
    mails           integer     NOT NULL DEFAULT 0,           -- in a row, without an hour's rest between
    FOREIGN KEY (owner, subscription_id) REFERENCES subscriptions (owner, id) ON DELETE CASCADE
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX delivery_lanes_due ON delivery_lanes (due_at) WHERE due_at IS NOT NULL;

SELECT secure_rows('deliveries', 'SELECT');
SELECT secure_rows('delivery_attempts', 'SELECT');
SELECT secure_rows('delivery_lanes', 'SELECT');
