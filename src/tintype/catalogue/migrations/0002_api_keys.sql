-- Keys that programs show, by what can be known of them without being able to use them.

CREATE TABLE api_keys (
    id            text        COLLATE "C" PRIMARY KEY,
    owner         text        COLLATE "C" NOT NULL,
    scopes        text[]      COLLATE "C" NOT NULL CHECK (scopes <@ '{read,write,admin}' AND scopes <> '{}'),
    name          text        COLLATE "C" NOT NULL,
    secret_sha256 bytea       NOT NULL CHECK (octet_length(secret_sha256) = 32),
    created_by    text        COLLATE "C" NOT NULL, -- the id of the key that made it, or `operator`
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz
);

CREATE INDEX api_keys_of_owner ON api_keys (owner, created_at, id);
