-- What the instances of one deployment share: which of them are alive, what is known of the
-- processors, which database the deployment lives in, and on what terms. Plain rows with a time to
-- live and no advisory lock, so that it also works behind a pooler.

CREATE TABLE service_instance (
    id         uuid        NOT NULL,
    seen_at    timestamptz NOT NULL,
    terms      jsonb,
    program    text,
    held       text,
    -- What only the instance knows of itself, for whoever looks at the deployment.
    processors text[]      NOT NULL DEFAULT '{}',
    attention  jsonb       NOT NULL DEFAULT '[]',
    -- What it knew before the queue was emptied is in that queue.
    queue_life uuid,
    CONSTRAINT service_instance_pkey PRIMARY KEY (id)
) WITH (fillfactor = 50);

CREATE TABLE processor_health (
    processor            text        NOT NULL,
    failing              boolean,
    min_response_time_ms integer,
    answered_at          timestamptz,
    -- The leader row: the instance that moves this forward has the next poll, for all instances.
    next_poll_at         timestamptz NOT NULL DEFAULT 'epoch',
    poller               uuid,
    enabled              boolean     NOT NULL DEFAULT true,
    -- One instance's probe is enough for all instances to use a processor again.
    recovered_at         timestamptz,
    CONSTRAINT processor_health_pkey PRIMARY KEY (processor),
    CONSTRAINT processor_health_answer_is_whole CHECK (
        (failing IS NULL) = (min_response_time_ms IS NULL)
        AND (failing IS NULL) = (answered_at IS NULL)
    )
) WITH (fillfactor = 50);

-- What was, minute by minute, for whoever comes after an alarm. Each instance adds one row a minute
-- and removes the rows that are too old; what was settled is in payment_rollup.
CREATE TABLE service_minute (
    minute           timestamptz      NOT NULL,
    instance         uuid             NOT NULL,
    observed_seconds integer          NOT NULL,
    accepted         bigint           NOT NULL,
    refused          bigint           NOT NULL,
    queued           bigint,
    p50_ms           double precision,
    p99_ms           double precision,
    processors       jsonb            NOT NULL,
    CONSTRAINT service_minute_pkey PRIMARY KEY (minute, instance),
    CONSTRAINT service_minute_is_one CHECK (date_trunc('minute', minute, 'UTC') = minute),
    CONSTRAINT service_minute_was_observed CHECK (observed_seconds > 0),
    CONSTRAINT service_minute_counts CHECK (accepted >= 0 AND refused >= 0 AND queued >= 0)
);

-- The ledger does not say what a processor kept: its fee is configuration, and may change.
CREATE TABLE processor_fee (
    processor  text        NOT NULL,
    valid_from timestamptz NOT NULL,
    fee        numeric     NOT NULL,
    CONSTRAINT processor_fee_pkey PRIMARY KEY (processor, valid_from),
    CONSTRAINT processor_fee_is_a_share CHECK (fee >= 0 AND fee < 1)
);

-- Configured fees that are new are valid from now on, or from ever for a processor that had none.
-- The service may not say since when: a fee of last January would change what settled months came
-- to.
CREATE FUNCTION record_fees(processors text[], fees numeric[]) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    recorded bigint;
BEGIN
    INSERT INTO processor_fee (processor, valid_from, fee)
    SELECT c.processor, CASE WHEN known.fee IS NULL THEN '-infinity' ELSE moment END,
        c.fee
    FROM unnest(processors, fees) AS c (processor, fee)
    LEFT JOIN LATERAL (
        SELECT f.fee FROM processor_fee f
        WHERE f.processor = c.processor AND f.valid_from <= moment
        ORDER BY f.valid_from DESC LIMIT 1
    ) AS known ON true
    WHERE known.fee IS DISTINCT FROM c.fee
    ON CONFLICT ON CONSTRAINT processor_fee_pkey DO NOTHING;
    GET DIAGNOSTICS recorded = ROW_COUNT;
    RETURN recorded;
END $$;

-- What tells this database from a copy of it, so that a copy is known before it charges anything.
-- A dump that is restored has other object ids, also in the same database; a copy of a template
-- has another database id; another cluster has another system identifier. A standby that is
-- promoted has the same three, and so has a cluster that is restored file by file.
CREATE FUNCTION database_identity() RETURNS text LANGUAGE plpgsql STABLE
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    system text;
BEGIN
    BEGIN
        SELECT c.system_identifier::text INTO system FROM pg_control_system() c;
    EXCEPTION
        -- Where the owner may not ask it, or it does not exist, the rest has to do.
        WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
            system := 'unknown';
    END;
    RETURN (
        SELECT format('system %s, database %s, table %s',
            system, d.oid, 'deployment'::regclass::oid)
        FROM pg_database d WHERE d.datname = current_database()
    );
END
$$;

-- Refuses the transaction unless it is where its statement means it to be: in this database, in
-- this life of its queue. An instance asks that of each new connection; behind a pooler in
-- transaction mode its connections stay while the sessions of the server come and go, so there the
-- statements that accept, claim and settle ask. The answer is kept in the session, which leads
-- nowhere else, and does not outlive whatever empties the queue.
--
-- The transaction also says whether its commit is waited for (`commits`), whatever was said in the
-- session before.
--
-- STRICT: where nothing is expected it is not called, wherever a planner puts the call. STABLE,
-- though it sets something, since Citus takes to pieces what calls a VOLATILE function; a statement
-- calls it once.
CREATE FUNCTION check_queue(expected text, commits text) RETURNS boolean LANGUAGE plpgsql STABLE
STRICT AS $$
DECLARE
    found text;
BEGIN
    IF current_setting('payment_proxy.queue', true) IS DISTINCT FROM expected THEN
        found := format('%s, queue %s', database_identity(), queue_life());
        IF found <> expected THEN
            RAISE EXCEPTION USING ERRCODE = 'PP001',
                MESSAGE = format('the session leads to %s, and not to %s any more', found, expected);
        END IF;
        PERFORM set_config('payment_proxy.queue', expected, false);
    END IF;
    IF current_setting('synchronous_commit') <> commits THEN
        PERFORM set_config('synchronous_commit', commits, true);
    END IF;
    RETURN true;
END
$$;

CREATE TABLE deployment (
    one           boolean     NOT NULL DEFAULT true,
    identity      text        NOT NULL,
    identified_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    asks_first    boolean     NOT NULL DEFAULT false,
    -- An instance that contradicts the others is known before it charges anything.
    terms         jsonb,
    terms_at      timestamptz,
    -- Which of the deployment's databases this is. `migrate` writes it, and an instance compares it
    -- with its list: a payment that is looked for in another cell is charged again.
    id            uuid        NOT NULL DEFAULT gen_random_uuid(),
    cell          integer     NOT NULL DEFAULT 1,
    cells         integer     NOT NULL DEFAULT 1,
    -- `payment-proxy divide` moves all payments of a database into cells. Nobody serves from a cell
    -- that has not got all of its payments, nor from a database whose payments are elsewhere.
    filling_from  text,
    divided_into  uuid,
    CONSTRAINT deployment_pkey PRIMARY KEY (one),
    CONSTRAINT deployment_is_one CHECK (one),
    CONSTRAINT deployment_cell_is_one_of_them CHECK (cell BETWEEN 1 AND cells)
);
INSERT INTO deployment (identity) SELECT database_identity();

-- The cell in which the payment of an id lives, of so many, as every instance computes it: the
-- remainder of the first four bytes of the SHA-256 of the id's 16 bytes, plus one.
CREATE FUNCTION cell_of_payment(id uuid, cells integer) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT (('x' || pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(pg_catalog.uuid_send(id)),
        'hex'), 8))::bit(32)::bigint % cells)::integer + 1
$$;

-- Refuses to write to a database whose payments are in cells: `payment-proxy divide` puts it on
-- queue, ledger and dead letters, with the deployment of the cells. It takes a lock for that, and a
-- statement that waits for the lock is refused, too, whatever its instance still believes. PP001,
-- as in check_queue: the statement is in the wrong place.
CREATE FUNCTION refuse_divided() RETURNS trigger LANGUAGE plpgsql
    SET search_path = public, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PP001',
        MESSAGE = format('the payments of this database are in the cells of deployment %s',
            TG_ARGV[0]);
END
$$;

CREATE TABLE deployment_declaration (
    id      bigint GENERATED ALWAYS AS IDENTITY,
    said_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    said_by text        NOT NULL DEFAULT session_user,
    declaration text    NOT NULL,
    reason  text        NOT NULL,
    details text        NOT NULL,
    CONSTRAINT deployment_declaration_pkey PRIMARY KEY (id),
    CONSTRAINT deployment_declaration_is_known CHECK (
        declaration IN ('restored', 'clone', 'moved', 'checked', 'terms')
    ),
    CONSTRAINT deployment_declaration_has_a_reason CHECK (reason <> '')
);

-- Which database the deployment is recorded in, and which this is. A copy without a single payment
-- is a template, and belongs to the deployment that starts there.
CREATE FUNCTION deployment_find(OUT recorded text, OUT here text, OUT asks_first boolean)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
        SET identity = excluded.identity, identified_at = excluded.identified_at,
            asks_first = false, terms = NULL, terms_at = NULL;
        recorded := here;
        asks_first := false;
    END IF;
END
$$;

-- Whether all instances but that one have put back what they knew before this life of the queue
-- began. One that died long enough before has nothing to put back: `doubt` is how long a claim and
-- the doubt that it leaves last. One that died later cannot put anything back, and its row says so
-- for twice as long (Guard: ClaimsWaitForTheDead).
CREATE FUNCTION queue_is_gathered(this_life uuid, own uuid, doubt interval) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
DECLARE
    began CONSTANT timestamptz := (SELECT l.began_at FROM payment_queue_life l);
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM service_instance i
        WHERE i.id <> own AND i.held IS NULL AND i.queue_life IS DISTINCT FROM this_life
            AND i.seen_at >= began - doubt
    );
END
$$;

-- When this life of the queue began by a crash or a failover that emptied the one before; null
-- where it did not.
CREATE FUNCTION queue_emptied_at(this_life uuid) RETURNS timestamptz
    LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
BEGIN
    RETURN (SELECT e.noticed_at FROM payment_queue_emptied e WHERE e.life = this_life);
END
$$;

-- How long the oldest transaction in this database has been open, in seconds; 0 where there is
-- none but the caller's. The age alone: whoever may read pg_stat_activity sees the statements of
-- all roles, passwords included. It counts the transactions that the owner of the tables sees: all
-- of them where init.sql made the owner a member of pg_read_all_stats.
CREATE FUNCTION oldest_transaction_seconds() RETURNS double precision
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The functions behind the views: to plan the views' joins with roles, which nobody needs,
    -- takes longer.
    RETURN (
        SELECT coalesce(greatest(extract(epoch FROM clock_timestamp() - min(begun_at)), 0), 0)
        FROM pg_database AS here CROSS JOIN LATERAL (
            SELECT xact_start AS begun_at FROM pg_stat_get_activity(NULL)
            WHERE datid = here.oid AND pid <> pg_backend_pid()
            UNION ALL SELECT prepared FROM pg_prepared_xact() WHERE dbid = here.oid
        ) AS begun
        WHERE here.datname = current_database()
    );
END $$;

-- An auditor can lift its own limits (SET, ALTER ROLE), and a snapshot that is held keeps vacuum
-- from cleaning the queue. So this ends each session of the role auditor and of its members whose
-- transaction is open for longer than the limit: a person who checks the ledger has a role of his
-- own, which is a member (CREATE ROLE anna LOGIN IN ROLE auditor). The instances call it, and log
-- what it returns. Members are those that act as auditor, or may choose to. Superusers, who are
-- members of everything, and roles that act as the owner of this function (migrations, restores)
-- are left alone, and so are sessions in other databases. To end a session of another role, the
-- owner has to be a member of that role or of pg_signal_backend.
CREATE FUNCTION end_long_audits(
    OUT audit_pid integer, OUT open_seconds double precision, OUT ended boolean,
    OUT audit_role text
)
    RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Twice what one statement of an auditor has, as init.sql sets it. Not an argument: the
    -- service may not choose it.
    longest CONSTANT interval := '60 s';
    auditor CONSTANT oid := to_regrole('auditor');
    -- From PostgreSQL 16 on, whoever makes a role is a member of it, and may neither act as it nor
    -- become it.
    chooses CONSTANT text := CASE WHEN current_setting('server_version_num')::integer >= 160000
        THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOR audit_pid, open_seconds, audit_role IN
        SELECT a.pid, extract(epoch FROM clock_timestamp() - a.xact_start), r.rolname
        FROM pg_stat_get_activity(NULL) AS a
        JOIN pg_roles r ON r.oid = a.usesysid
        JOIN pg_database d ON d.oid = a.datid AND d.datname = current_database()
        WHERE a.xact_start < clock_timestamp() - longest AND NOT r.rolsuper
            AND (pg_has_role(r.oid, auditor, 'USAGE') OR pg_has_role(r.oid, auditor, chooses))
            AND NOT pg_has_role(r.rolname, current_user, 'MEMBER')
    LOOP
        BEGIN
            ended := pg_terminate_backend(audit_pid);
        EXCEPTION
            WHEN insufficient_privilege THEN
                ended := false;
        END;
        RETURN NEXT;
    END LOOP;
END $$;

-- What the service needs of other sessions and of the past goes through these functions, so that
-- its role has no right to more. `migrate` grants them to it.
REVOKE EXECUTE ON FUNCTION
    record_fees, deployment_find, oldest_transaction_seconds, end_long_audits
    FROM PUBLIC;

COMMENT ON TABLE service_instance IS
    'Instances of the service that are alive; they share the processors'' capacity';
COMMENT ON COLUMN service_instance.id IS 'Chosen by the instance at its start';
COMMENT ON COLUMN service_instance.seen_at IS 'Its last heartbeat';
COMMENT ON COLUMN service_instance.terms IS
    'Processors, fees and settings that it is configured with';
COMMENT ON COLUMN service_instance.program IS
    'The version of its program, and the newest migration that this knows';
COMMENT ON COLUMN service_instance.held IS 'Why it accepts and charges nothing; null: it does';
COMMENT ON COLUMN service_instance.processors IS
    'Names of the processors that it is configured with; empty: it does not say';
COMMENT ON COLUMN service_instance.attention IS
    'What this instance found that wants an operator''s attention, at its last heartbeat';
COMMENT ON COLUMN service_instance.queue_life IS
    'The life of the queue in which this instance has put back what it knew before';
COMMENT ON TABLE processor_health IS
    'What all instances know of each processor: its last answer about its health, and whether it '
    'is in use';
COMMENT ON COLUMN processor_health.processor IS 'Name of the processor';
COMMENT ON COLUMN processor_health.failing IS
    'Its own word: payments fail there; null: it has not answered yet';
COMMENT ON COLUMN processor_health.min_response_time_ms IS
    'Its own word: the least time a payment takes there, in milliseconds';
COMMENT ON COLUMN processor_health.answered_at IS 'When it said so';
COMMENT ON COLUMN processor_health.next_poll_at IS 'Nobody polls before this time';
COMMENT ON COLUMN processor_health.enabled IS
    'False: an operator has taken it out, nothing new is sent there';
COMMENT ON COLUMN processor_health.poller IS 'The instance that polls or polled last';
COMMENT ON COLUMN processor_health.recovered_at IS
    'When an instance that had given it up last charged a payment there; the others then use it '
    'again';
COMMENT ON TABLE service_minute IS
    'What each instance saw in each minute of the last two days; a minute without a row was seen '
    'by nobody';
COMMENT ON COLUMN service_minute.minute IS 'When the minute began, by the clock of the database';
COMMENT ON COLUMN service_minute.instance IS 'The instance that saw it';
COMMENT ON COLUMN service_minute.observed_seconds IS
    'Seconds of the minute in which that instance ran';
COMMENT ON COLUMN service_minute.accepted IS 'Payments that it accepted';
COMMENT ON COLUMN service_minute.refused IS
    'Posts that it answered with 503: the queue was full, the database was away, or it must not '
    'serve';
COMMENT ON COLUMN service_minute.queued IS
    'The longest queue of the whole deployment that it saw; null: the database did not answer at '
    'the end of the minute';
COMMENT ON COLUMN service_minute.p50_ms IS
    'Milliseconds from acceptance until half of the payments of that minute were settled, of all '
    'instances, by a sample; null: none was';
COMMENT ON COLUMN service_minute.p99_ms IS 'The same of 99 per cent of them';
COMMENT ON COLUMN service_minute.processors IS
    'By processor, for how many seconds its breaker was open and half open here, and it was '
    'switched off';
COMMENT ON TABLE processor_fee IS
    'The fee of each processor and since when; an instance that starts adds what its '
    'configuration says, where that is new';
COMMENT ON COLUMN processor_fee.processor IS 'Name of the processor';
COMMENT ON COLUMN processor_fee.valid_from IS
    'The first requestedAt with this fee; -infinity for the first fee that was ever configured';
COMMENT ON COLUMN processor_fee.fee IS
    'The share of each amount that the processor keeps, such as 0.05';
COMMENT ON FUNCTION record_fees IS
    'Writes down fees that are new, from now on, and returns how many there were';
COMMENT ON FUNCTION queue_is_gathered IS
    'Whether the other instances have put back what they knew before the queue was emptied';
COMMENT ON FUNCTION queue_emptied_at IS
    'When a crash or a failover emptied the queue, as the beginning of this life of it';
COMMENT ON FUNCTION check_queue IS
    'Refuses the transaction unless it is in this database, in this life of its queue';
COMMENT ON FUNCTION database_identity IS 'What tells this database from a copy of it';
COMMENT ON TABLE deployment IS
    'The one row of the deployment: which database it lives in, and on what terms';
COMMENT ON COLUMN deployment.one IS 'Always true: there is one row';
COMMENT ON COLUMN deployment.identity IS
    'database_identity() of the database that the deployment lives in; of a copy it is another one';
COMMENT ON COLUMN deployment.identified_at IS 'When that was recorded';
COMMENT ON COLUMN deployment.asks_first IS
    'After a restore: every processor is asked for a payment before its first charge';
COMMENT ON COLUMN deployment.terms IS
    'Processors, fees and settings that all instances agree on; null: the next instance says';
COMMENT ON COLUMN deployment.terms_at IS 'When they were agreed on';
COMMENT ON COLUMN deployment.id IS
    'Of the deployment: the same in all of its cells; of no meaning where there is one';
COMMENT ON COLUMN deployment.cell IS
    'Which cell this database is, from 1 on, in the order of DATABASE_URL';
COMMENT ON COLUMN deployment.cells IS 'How many cells the deployment has';
COMMENT ON COLUMN deployment.filling_from IS
    'The database whose payments `payment-proxy divide` copies into this cell, and the last row of '
    'its ledger_change; null: this cell has all of its payments';
COMMENT ON COLUMN deployment.divided_into IS
    'The deployment whose cells have all payments of this database, which is closed; null: they '
    'are here';
COMMENT ON FUNCTION refuse_divided IS
    'Trigger: refuses to write to a database whose payments are in the cells of a deployment';
COMMENT ON FUNCTION cell_of_payment IS
    'The cell, from 1 on, in which the payment of an id lives where there are so many cells';
COMMENT ON TABLE deployment_declaration IS 'What operators declared of the deployment';
COMMENT ON COLUMN deployment_declaration.id IS 'Order in which it was said';
COMMENT ON COLUMN deployment_declaration.said_at IS 'When it was said';
COMMENT ON COLUMN deployment_declaration.said_by IS 'The role that said it';
COMMENT ON COLUMN deployment_declaration.declaration IS
    'restored, clone or moved: what this database is; checked: the restore is over; terms: '
    'instances go on with others';
COMMENT ON COLUMN deployment_declaration.reason IS 'Why, in the operator''s words';
COMMENT ON COLUMN deployment_declaration.details IS 'What was changed by it';
COMMENT ON FUNCTION deployment_find IS
    'Which database the deployment is recorded in, and which this is; a copy without a payment is '
    'taken over';
COMMENT ON FUNCTION oldest_transaction_seconds IS
    'Age of the oldest open transaction in this database, in seconds';
COMMENT ON FUNCTION end_long_audits IS
    'Ends sessions of members of role auditor whose transaction is open for longer than 60 s, and '
    'says which';
