-- Row-level security: who acts for one owner sees that owner's rows, whatever the statement says.
--
-- tintype_app acts for the owner that the setting tintype.owner names, and for nobody where it names none.
-- tintype_worker acts for every owner. Neither owns a table, nor logs in: a login becomes one of them for
-- the time of a transaction. Roles belong to the whole cluster, so they may be there already.

DO $$
DECLARE
    needed name;
BEGIN
    FOREACH needed IN ARRAY ARRAY['tintype_app', 'tintype_worker'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = needed) THEN
                EXECUTE format('CREATE ROLE %I', needed);
            END IF;
            IF NOT pg_has_role(needed, 'SET') THEN
                EXECUTE format('GRANT %I TO CURRENT_USER WITH INHERIT FALSE, SET TRUE', needed);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database of this cluster was faster
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION USING MESSAGE = format(
                    '%I may not make the roles that Tintype works as. Have an administrator run these, then '
                    'migrate again: CREATE ROLE tintype_app; CREATE ROLE tintype_worker; '
                    'GRANT tintype_app, tintype_worker TO %I WITH INHERIT FALSE, SET TRUE',
                    current_user, current_user);
        END;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = needed AND (rolsuper OR rolbypassrls)) THEN
            RAISE EXCEPTION USING MESSAGE = format(
                'The role %I passes by row-level security. Have an administrator run: '
                'ALTER ROLE %I NOSUPERUSER NOBYPASSRLS', needed, needed);
        END IF;
    END LOOP;
END
$$;

-- For each table with an owner, in the step that makes it; see README.md here.
CREATE FUNCTION secure_rows(secured regclass, app_may text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', secured);
    EXECUTE format(
        'CREATE POLICY one_owner ON %s TO tintype_app '
        'USING (owner = nullif(current_setting(''tintype.owner'', true), ''''))', secured);
    EXECUTE format('CREATE POLICY every_owner ON %s TO tintype_worker USING (true)', secured);
    EXECUTE format('GRANT %s ON %s TO tintype_app', app_may, secured);
END
$$;
REVOKE EXECUTE ON FUNCTION secure_rows FROM PUBLIC;

-- What requests need, and no more. New images come from the writer, which commits for all owners at once.
SELECT secure_rows('images', 'SELECT, UPDATE');
SELECT secure_rows('events', 'SELECT, INSERT');
SELECT secure_rows('idempotency', 'SELECT, INSERT');
SELECT secure_rows('api_keys', 'SELECT, INSERT, UPDATE');
SELECT secure_rows('upload_tokens', 'SELECT, INSERT, UPDATE');
SELECT secure_rows('upload_token_uses', 'SELECT, INSERT, DELETE');

GRANT SELECT ON schema_steps TO PUBLIC; -- every login asks, before it is any role, what it works with
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO tintype_worker;
REVOKE INSERT, UPDATE, DELETE ON schema_steps FROM tintype_worker;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO tintype_worker; -- as pg_dump must
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO tintype_worker;
ALTER DEFAULT PRIVILEGES GRANT USAGE, SELECT ON SEQUENCES TO tintype_worker;

-- A policy comes before any operator that might tell what it has seen, as those of arrays might. So the
-- index on tags, which is safe because the owner is in it, is out of tintype_app's reach but through here.
SET LOCAL row_security = on; -- the runner has it off, so that no step misses rows in silence
CREATE FUNCTION images_tagged(for_owner text, wanted text[], at_most integer) RETURNS SETOF uuid
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
BEGIN ATOMIC
    SELECT id FROM images
    WHERE (current_setting('role') = 'tintype_worker'
           OR for_owner = nullif(current_setting('tintype.owner', true), ''))
      AND owner = for_owner AND state = 'ready' AND tags <> '{}'
      AND owned_tags(owner, tags) @> owned_tags(for_owner, wanted)
    LIMIT at_most;
END;
REVOKE EXECUTE ON FUNCTION images_tagged FROM PUBLIC;
GRANT EXECUTE ON FUNCTION images_tagged TO tintype_app, tintype_worker;
-- Whoever gets a function must be allowed to make one.
GRANT CREATE ON SCHEMA public TO tintype_worker;
ALTER FUNCTION images_tagged OWNER TO tintype_worker;
REVOKE CREATE ON SCHEMA public FROM tintype_worker;
