-- How much owners may store, and how much those who have a limit do.

CREATE TABLE quotas (
    owner      text        COLLATE "C" PRIMARY KEY,
    max_bytes  bigint      CHECK (max_bytes >= 0),
    max_images bigint      CHECK (max_images >= 0),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each owner who has, or once had, a limit. For all others nothing is counted, so that commits of
-- several instances do not wait for each other at one owner's counter without need.
CREATE TABLE quota_usage (
    owner      text        COLLATE "C" PRIMARY KEY,
    bytes      bigint      NOT NULL DEFAULT 0,
    images     bigint      NOT NULL DEFAULT 0,
    counted_at timestamptz -- null: what was there before the row is still to be counted
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02); -- few rows, written with every commit

-- Room for uploads on their way. What is left of a process that died gives its room back when it expires,
-- which is after the commit would refuse the attempt.
CREATE TABLE quota_reservations (
    id         uuid        PRIMARY KEY, -- of the attempt, as soon as it has one
    owner      text        COLLATE "C" NOT NULL,
    bytes      bigint      NOT NULL CHECK (bytes >= 0),
    images     bigint      NOT NULL CHECK (images >= 0),
    expires_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX quota_reservations_of_owner ON quota_reservations (owner, expires_at);

-- The counters follow the images in the transaction that changes them, whoever does so: an upload, a purge, a
-- repair, a rebuild. The rows of counters come last of all that a transaction locks, sorted by owner.
CREATE FUNCTION count_new_images() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM quota_usage) THEN
        RETURN NULL;
    END IF;
    PERFORM FROM quota_usage WHERE owner IN (SELECT owner FROM changed) ORDER BY owner FOR UPDATE;
    UPDATE quota_usage AS counter SET bytes = counter.bytes + added.bytes, images = counter.images + added.images
    FROM (
        SELECT owner, sum(bytes) AS bytes, count(*) AS images FROM changed
        WHERE purged_at IS NULL GROUP BY owner) AS added
    WHERE counter.owner = added.owner;
    DELETE FROM quota_reservations WHERE id IN (SELECT id FROM changed);
    RETURN NULL;
END
$$;

CREATE FUNCTION count_images_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM quota_usage WHERE owner IN (SELECT owner FROM changed) ORDER BY owner FOR UPDATE;
    UPDATE quota_usage AS counter SET bytes = counter.bytes - gone.bytes, images = counter.images - gone.images
    FROM (
        SELECT owner, sum(bytes) AS bytes, count(*) AS images FROM changed
        WHERE purged_at IS NULL GROUP BY owner) AS gone
    WHERE counter.owner = gone.owner;
    RETURN NULL;
END
$$;

CREATE FUNCTION count_purged_image() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change integer := CASE WHEN NEW.purged_at IS NULL THEN 1 ELSE -1 END;
BEGIN
    UPDATE quota_usage SET bytes = bytes + change * NEW.bytes, images = images + change WHERE owner = NEW.owner;
    RETURN NULL;
END
$$;

CREATE TRIGGER images_new AFTER INSERT ON images
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_new_images();
CREATE TRIGGER images_gone AFTER DELETE ON images
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_images_gone();
CREATE TRIGGER images_purged AFTER UPDATE ON images FOR EACH ROW
    WHEN ((OLD.purged_at IS NULL) <> (NEW.purged_at IS NULL)) EXECUTE FUNCTION count_purged_image();

SELECT secure_rows('quotas', 'SELECT');
SELECT secure_rows('quota_usage', 'SELECT, UPDATE');
SELECT secure_rows('quota_reservations', 'SELECT, INSERT, UPDATE, DELETE');
