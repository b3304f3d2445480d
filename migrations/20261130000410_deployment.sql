-- Which database the deployment lives in, and on what terms: so that a copy of the database, and an instance that
-- contradicts the others, are known before they charge anything.

-- What tells this database from a copy of it. A dump that is restored has other object ids, also in the same database;
-- one made from a template has another database id; another cluster has another system identifier. A standby that is
-- promoted has the same of all three, and so has a cluster that is restored file by file.
CREATE FUNCTION database_identity() RETURNS text LANGUAGE plpgsql STABLE
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    system text;
BEGIN
    BEGIN
        SELECT c.system_identifier::text INTO system FROM pg_control_system() c;
    EXCEPTION
        -- Where it may not be asked, or does not exist: then the rest has to do.
        WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
            system := 'unknown';
    END;
    RETURN (
        SELECT format('system %s, database %s, table %s', system, d.oid, 'deployment'::regclass::oid)
        FROM pg_database d WHERE d.datname = current_database()
    );
END
$$;
COMMENT ON FUNCTION database_identity IS 'What tells this database from a copy of it';

CREATE TABLE deployment (
    one           boolean     NOT NULL DEFAULT true,
    identity      text        NOT NULL,
    identified_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    asks_first    boolean     NOT NULL DEFAULT false,
    terms         jsonb,
    terms_at      timestamptz,
    CONSTRAINT deployment_pkey PRIMARY KEY (one),
    CONSTRAINT deployment_is_one CHECK (one)
);
COMMENT ON TABLE deployment IS 'The one row of the deployment: which database it lives in, and on what terms';
COMMENT ON COLUMN deployment.one IS 'Always true: there is one row';
COMMENT ON COLUMN deployment.identity IS 'database_identity() of the database that the deployment lives in; of a copy it is another one';
COMMENT ON COLUMN deployment.identified_at IS 'When that was recorded';
COMMENT ON COLUMN deployment.asks_first IS 'After a restore: every processor is asked for a payment before its first charge';
COMMENT ON COLUMN deployment.terms IS 'Processors, fees and settings that all instances agree on; null: the next instance says';
COMMENT ON COLUMN deployment.terms_at IS 'When they were agreed on';
INSERT INTO deployment (identity) SELECT database_identity();

CREATE TABLE deployment_word (
    id      bigint GENERATED ALWAYS AS IDENTITY,
    said_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    said_by text        NOT NULL DEFAULT session_user,
    word    text        NOT NULL,
    reason  text        NOT NULL,
    details text        NOT NULL,
    CONSTRAINT deployment_word_pkey PRIMARY KEY (id),
    CONSTRAINT deployment_word_is_known CHECK (word IN ('restored', 'clone', 'moved', 'checked', 'terms')),
    CONSTRAINT deployment_word_has_a_reason CHECK (reason <> '')
);
COMMENT ON TABLE deployment_word IS 'What operators declared of the deployment';
COMMENT ON COLUMN deployment_word.id IS 'Order in which it was said';
COMMENT ON COLUMN deployment_word.said_at IS 'When it was said';
COMMENT ON COLUMN deployment_word.said_by IS 'The role that said it';
COMMENT ON COLUMN deployment_word.word IS 'restored, clone or moved: what this database is; checked: the restore is over; terms: instances go on with others';
COMMENT ON COLUMN deployment_word.reason IS 'Why, in the operator''s words';
COMMENT ON COLUMN deployment_word.details IS 'What was changed by it';

-- Says which database the deployment is recorded in, and which this is. A copy without a single payment is a template,
-- and belongs to whoever starts there.
CREATE FUNCTION deployment_find(OUT recorded text, OUT here text, OUT asks_first boolean) LANGUAGE plpgsql VOLATILE
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    here := database_identity();
    SELECT d.identity, d.asks_first INTO recorded, asks_first FROM deployment d;
    IF recorded IS DISTINCT FROM here
        AND NOT EXISTS (SELECT FROM payment_queue)
        AND NOT EXISTS (SELECT FROM payment_processed)
        AND NOT EXISTS (SELECT FROM payment_dead_letter)
        AND NOT EXISTS (SELECT FROM payment_archived)
    THEN
        INSERT INTO deployment (identity) VALUES (here)
        ON CONFLICT ON CONSTRAINT deployment_pkey DO UPDATE
        SET identity = excluded.identity, identified_at = excluded.identified_at, asks_first = false,
            terms = NULL, terms_at = NULL;
        recorded := here;
        asks_first := false;
    END IF;
END
$$;
COMMENT ON FUNCTION deployment_find IS 'Which database the deployment is recorded in, and which this is; a copy without a payment is taken over';
REVOKE EXECUTE ON FUNCTION deployment_find FROM PUBLIC;

ALTER TABLE service_instance
    ADD COLUMN terms jsonb,
    ADD COLUMN program text,
    ADD COLUMN held text;
COMMENT ON COLUMN service_instance.terms IS 'Processors, fees and settings that it is configured with';
COMMENT ON COLUMN service_instance.program IS 'The version of its program, and the newest migration that this knows';
COMMENT ON COLUMN service_instance.held IS 'Why it accepts and charges nothing; null: it does';
