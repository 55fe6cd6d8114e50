-- outside of a transaction
-- Whose bytes were seen longest ago: when they were stored, or when they were last read.
DROP INDEX CONCURRENTLY IF EXISTS images_seen;
CREATE INDEX CONCURRENTLY images_seen ON images ((coalesce(last_verified_at, created_at)), id)
    WHERE state = 'ready';
DROP INDEX CONCURRENTLY IF EXISTS images_unverified;
