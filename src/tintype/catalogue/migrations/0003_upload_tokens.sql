-- Secrets that all instances sign with, and how often each upload token was used.

CREATE TABLE signing_secrets (
    purpose    text        COLLATE "C" PRIMARY KEY,
    secret     bytea       NOT NULL CHECK (octet_length(secret) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE upload_tokens (
    id         uuid        PRIMARY KEY,
    owner      text        COLLATE "C" NOT NULL,
    key_id     text        COLLATE "C", -- whose revocation ends the token too
    uses       integer     NOT NULL CHECK (uses > 0),
    used       integer     NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND uses),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

CREATE INDEX upload_tokens_expired ON upload_tokens (expires_at);

-- One row for each content, so that the same bytes sent again are no second use.
CREATE TABLE upload_token_uses (
    owner    text  COLLATE "C" NOT NULL,
    token_id uuid  NOT NULL REFERENCES upload_tokens ON DELETE CASCADE,
    sha256   bytea NOT NULL CHECK (octet_length(sha256) = 32),
    PRIMARY KEY (token_id, sha256)
);
