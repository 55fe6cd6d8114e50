-- A scope for the location of images, and how long the bytes were that an upload token was used for.

ALTER TABLE api_keys
    DROP CONSTRAINT api_keys_scopes_check,
    ADD CONSTRAINT api_keys_scopes_check
        CHECK (scopes <@ '{read,write,admin,location}' AND scopes <> '{}');

ALTER TABLE upload_token_uses ADD COLUMN bytes bigint; -- null: used before there was this column
