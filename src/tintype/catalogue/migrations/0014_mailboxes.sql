-- How many mails a mailbox got lately, from whichever owners. It holds no address.

CREATE TABLE mailboxes (
    address_sha256 bytea       PRIMARY KEY CHECK (octet_length(address_sha256) = 32),
    empty_at       timestamptz NOT NULL -- each mail fills it by a measure, and it runs dry by itself
) WITH (fillfactor = 70);

CREATE INDEX mailboxes_empty ON mailboxes (empty_at);
