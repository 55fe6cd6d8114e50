-- Who asked to hear of what: subscriptions, what is still to be done for them, and how often strangers were mailed.

CREATE TABLE subscriptions (
    id               uuid        PRIMARY KEY,
    owner            text        COLLATE "C" NOT NULL,
    channel          text        COLLATE "C" NOT NULL CHECK (channel IN ('email', 'sms', 'webhook', 'sqs')),
    address          text        COLLATE "C" NOT NULL,
    address_key      text        COLLATE "C" NOT NULL, -- the same for all spellings of one address
    filter           jsonb       NOT NULL,             -- an SNS filter policy
    kinds            text[]      COLLATE "C" NOT NULL, -- of events; none: all
    mode             text        COLLATE "C" NOT NULL CHECK (mode IN ('at_once', 'hourly', 'daily')),
    provider         text        COLLATE "C" NOT NULL CHECK (provider IN ('tintype', 'sns')),
    status           text        COLLATE "C" NOT NULL
                     CHECK (status IN ('pending', 'active', 'paused', 'unsubscribed', 'expired', 'deleted')),
    reason           text,                             -- why it is not active, in a sentence
    round            integer     NOT NULL DEFAULT 1,   -- of its confirmation: each asks with a code of its own
    code_attempts    integer     NOT NULL DEFAULT 0,   -- wrong codes in this round
    asked_at         timestamptz NOT NULL DEFAULT now(),
    secret           bytea,                            -- signs webhooks
    old_secret       bytea,                            -- signs beside it after a rotation
    old_secret_until timestamptz,
    sns_arn          text        COLLATE "C",
    sns_in_step      boolean     NOT NULL DEFAULT true, -- whether SNS has been told what this row says
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    confirmed_at     timestamptz,
    version          integer     NOT NULL DEFAULT 1,
    UNIQUE (owner, id)
);

-- An address has one subscription of an owner; those that are over do not count.
CREATE UNIQUE INDEX subscriptions_of_address ON subscriptions (owner, channel, address_key)
    WHERE status IN ('pending', 'active', 'paused');
-- SNS knows an address once for each topic, whoever's it is.
CREATE UNIQUE INDEX subscriptions_of_sns ON subscriptions (channel, address_key)
    WHERE provider = 'sns' AND (status IN ('pending', 'active', 'paused') OR NOT sns_in_step);
CREATE INDEX subscriptions_out_of_step ON subscriptions (updated_at) WHERE NOT sns_in_step;
CREATE INDEX subscriptions_pending ON subscriptions (asked_at) WHERE status = 'pending';
CREATE INDEX subscriptions_at_sns ON subscriptions (id) WHERE provider = 'sns' AND status <> 'deleted';

-- What was promised in a transaction, and is done after it: a confirmation, a test message, a replay.
CREATE TABLE errands (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner           text        COLLATE "C" NOT NULL,
    subscription_id uuid        NOT NULL,
    kind            text        COLLATE "C" NOT NULL CHECK (kind IN ('confirmation', 'test', 'replay')),
    detail          jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (owner, subscription_id) REFERENCES subscriptions (owner, id) ON DELETE CASCADE
);

CREATE INDEX errands_of_subscription ON errands (owner, subscription_id);

-- How often an address was asked to confirm within a day, by whichever owner. It holds no address.
CREATE TABLE confirmations_asked (
    address_sha256 bytea       PRIMARY KEY CHECK (octet_length(address_sha256) = 32),
    since          timestamptz NOT NULL DEFAULT now(),
    asked          integer     NOT NULL DEFAULT 1
);

CREATE INDEX confirmations_asked_since ON confirmations_asked (since);
GRANT SELECT, INSERT, UPDATE, DELETE ON confirmations_asked TO tintype_app; -- it belongs to no owner

SELECT secure_rows('subscriptions', 'SELECT, INSERT, UPDATE, DELETE');
SELECT secure_rows('errands', 'SELECT, INSERT, UPDATE, DELETE');
