-- What payment_processed adds up to, kept by triggers: whatever changes the ledger, by whatever
-- statement, changes the totals in the same transaction. And what shows that nothing is missing:
-- counts of what was accepted, and a trace of each change of a settled payment.

-- Totals by second, minute and hour, so that the summary of any range over any number of payments
-- reads a few hundred rows.
CREATE TABLE payment_rollup (
    unit      text          NOT NULL,
    starts_at timestamptz   NOT NULL,
    processor text          NOT NULL,
    requests  bigint        NOT NULL,
    -- Room for 10^18 payments of the largest amount. With numeric(20,2) an hour was full after a
    -- million of them, and each further one was charged and could not be recorded. The service
    -- itself reads sums of up to 28 digits: 7 * 10^14 such payments.
    amount    numeric(32,2) NOT NULL,
    CONSTRAINT payment_rollup_pkey PRIMARY KEY (unit, starts_at, processor),
    CONSTRAINT payment_rollup_unit_is_known CHECK (unit IN ('second', 'minute', 'hour'))
) WITH (
    -- The newest rows are updated with every settle.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- Adds the changed payments `sign` times (1 or -1): by second once, and minutes and hours from the
-- seconds, since to add up the payments three times takes an eighth of the whole statement that
-- settles 100 of them. In the order of the key: two settles that touch the same rows wait for each
-- other in the same order, which excludes a deadlock.
--
-- Here and in the other triggers no statement joins what was changed with a table: Citus plans none
-- that does, and PostgreSQL is as fast with arrays.
--
-- The triggers write the totals as the owner of the tables, so the role that settles payments
-- needs no right to change them. The path is fixed: nobody can put a table in front of ours.
CREATE FUNCTION payment_rollup_count() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    sign CONSTANT integer := TG_ARGV[0];
    seconds    timestamptz[];
    processors text[];
    counts     bigint[];
    amounts    numeric[];
BEGIN
    SELECT array_agg(s.starts_at), array_agg(s.processor), array_agg(s.requests),
        array_agg(s.amount)
    INTO seconds, processors, counts, amounts
    FROM (
        SELECT date_bin('1 second', c.requested_at, 'epoch') AS starts_at, c.processor,
            sign * count(*) AS requests, sign * sum(c.amount) AS amount
        FROM changed c GROUP BY 1, 2
    ) s;
    INSERT INTO payment_rollup AS r (unit, starts_at, processor, requests, amount)
    SELECT u.unit, date_bin(u.width, s.starts_at, 'epoch'), s.processor,
        sum(s.requests), sum(s.amount)
    FROM unnest(seconds, processors, counts, amounts)
            AS s (starts_at, processor, requests, amount)
        CROSS JOIN (
            VALUES ('hour', interval '1 hour'), ('minute', interval '1 minute'),
                ('second', interval '1 second')
        ) AS u (unit, width)
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT ON CONSTRAINT payment_rollup_pkey
    DO UPDATE SET requests = r.requests + excluded.requests, amount = r.amount + excluded.amount;
    RETURN NULL;
END $$;

-- Whether the rows of a table are on a node of a Citus cluster. A TRUNCATE calls the triggers of
-- both, and those of the node do what is to be done.
CREATE FUNCTION rows_are_elsewhere(of oid) RETURNS boolean LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('pg_dist_partition') IS NULL THEN
        RETURN false;
    END IF;
    RETURN EXISTS (SELECT FROM pg_dist_partition p WHERE p.logicalrelid = of);
END $$;
COMMENT ON FUNCTION rows_are_elsewhere IS
    'Whether the rows of a table are on a node of a Citus cluster';

-- A purge empties what was made of the payments as well: totals, findings of reconcile, counts.
CREATE FUNCTION payment_rollup_clear() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF rows_are_elsewhere(TG_RELID) THEN
        RETURN NULL;
    END IF;
    -- The node of a Citus cluster that empties the ledger for the coordinator must not ask it to
    -- empty another table: it would wait for the coordinator, which waits for the node.
    IF to_regclass('pg_catalog.pg_dist_partition') IS NULL THEN
        TRUNCATE payment_rollup;
    ELSE
        DELETE FROM payment_rollup;
    END IF;
    DELETE FROM reconcile_finding;
    DELETE FROM payment_accepted_hour;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION payment_rollup_count, payment_rollup_clear FROM PUBLIC;

CREATE TRIGGER payment_rollup_insert AFTER INSERT ON payment_processed
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION payment_rollup_count('1');
CREATE TRIGGER payment_rollup_delete AFTER DELETE ON payment_processed
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION payment_rollup_count('-1');
CREATE TRIGGER payment_rollup_update_old AFTER UPDATE ON payment_processed
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION payment_rollup_count('-1');
CREATE TRIGGER payment_rollup_update_new AFTER UPDATE ON payment_processed
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION payment_rollup_count('1');
CREATE TRIGGER payment_rollup_truncate AFTER TRUNCATE ON payment_processed
    FOR EACH STATEMENT EXECUTE FUNCTION payment_rollup_clear();

-- What was accepted, counted apart from the rows of the payments. The statements of a payment's
-- life do nothing for it: instances count in memory and add here once a second.
CREATE TABLE payment_accepted_hour (
    starts_at       timestamptz   NOT NULL,
    payments        bigint        NOT NULL DEFAULT 0,
    amount          numeric(32,2) NOT NULL DEFAULT 0,
    archived        bigint        NOT NULL DEFAULT 0,
    archived_amount numeric(32,2) NOT NULL DEFAULT 0,
    CONSTRAINT payment_accepted_hour_pkey PRIMARY KEY (starts_at)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- The newest batch of each counter. A batch whose commit was not confirmed, as when the leader of a
-- cluster goes, comes again under its number, and is added once.
CREATE TABLE payment_accepted_batch (
    counter  uuid        NOT NULL,
    batch    bigint      NOT NULL,
    added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT payment_accepted_batch_pkey PRIMARY KEY (counter)
) WITH (fillfactor = 50);

-- Only adds, so that whoever has the service's password cannot lower a count. Adds nothing where
-- that batch, or a later one, was added before.
CREATE FUNCTION count_accepted(
    counted_by uuid, number bigint, hours timestamptz[], counts bigint[], amounts numeric[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    -- Longer than an instance goes on with a batch.
    forgotten CONSTANT interval := '7 days';
BEGIN
    IF EXISTS (
        SELECT FROM unnest(hours, counts, amounts) AS c (hour, payments, amount)
        WHERE (c.payments > 0 AND c.amount > 0 AND c.hour = date_bin('1 hour', c.hour, 'epoch'))
            IS NOT TRUE
    ) THEN
        RAISE invalid_parameter_value
            USING MESSAGE = 'payments are counted by whole hours, and only added';
    END IF;
    INSERT INTO payment_accepted_batch AS b (counter, batch) VALUES (counted_by, number)
    ON CONFLICT ON CONSTRAINT payment_accepted_batch_pkey
    DO UPDATE SET batch = excluded.batch, added_at = excluded.added_at
    WHERE b.batch < excluded.batch;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF number = 1 THEN
        DELETE FROM payment_accepted_batch b WHERE b.added_at < clock_timestamp() - forgotten;
    END IF;
    INSERT INTO payment_accepted_hour AS h (starts_at, payments, amount)
    SELECT c.hour, sum(c.payments), sum(c.amount)
    FROM unnest(hours, counts, amounts) AS c (hour, payments, amount)
    GROUP BY 1 ORDER BY 1
    ON CONFLICT ON CONSTRAINT payment_accepted_hour_pkey
    DO UPDATE SET payments = h.payments + excluded.payments, amount = h.amount + excluded.amount;
END $$;
-- `migrate` grants it to the service.
REVOKE EXECUTE ON FUNCTION count_accepted FROM PUBLIC;

-- A settled payment that is changed or removed leaves a trace. To settle only adds rows, so it
-- pays nothing for this.
CREATE TABLE ledger_change (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by     text        NOT NULL DEFAULT session_user,
    application    text        NOT NULL DEFAULT current_setting('application_name'),
    change         text        NOT NULL,
    correlation_id uuid,
    was            jsonb,
    is_now         jsonb,
    CONSTRAINT ledger_change_is_known CHECK (change IN ('removed', 'changed', 'emptied'))
);

-- What moves to the archive is there before it is removed here, and leaves no trace.
CREATE FUNCTION ledger_change_note() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    ids      uuid[];
    archived uuid[];
    before   jsonb[];
    after    jsonb[];
BEGIN
    CASE TG_OP
        WHEN 'DELETE' THEN
            ids := ARRAY(SELECT w.correlation_id FROM was w);
            archived := ARRAY(
                SELECT a.correlation_id FROM payment_archived a WHERE a.correlation_id = ANY (ids)
            );
            IF cardinality(archived) = cardinality(ids) THEN
                RETURN NULL;
            END IF;
            SELECT array_agg(w.correlation_id), array_agg(to_jsonb(w)) INTO ids, before FROM was w;
            INSERT INTO ledger_change (change, correlation_id, was)
            SELECT 'removed', c.id, c.was FROM unnest(ids, before) AS c (id, was)
            WHERE c.id <> ALL (archived) ORDER BY c.id;
        WHEN 'UPDATE' THEN
            SELECT array_agg(w.correlation_id), array_agg(to_jsonb(w)),
                array_agg(CASE WHEN i.correlation_id IS NOT NULL THEN to_jsonb(i) END)
            INTO ids, before, after
            FROM was w LEFT JOIN is_now i ON i.correlation_id = w.correlation_id
            WHERE i IS DISTINCT FROM w;
            INSERT INTO ledger_change (change, correlation_id, was, is_now)
            SELECT CASE WHEN c.is_now IS NULL THEN 'removed' ELSE 'changed' END, c.id, c.was,
                c.is_now
            FROM unnest(ids, before, after) AS c (id, was, is_now) ORDER BY c.id;
        ELSE
            IF rows_are_elsewhere(TG_RELID) THEN
                RETURN NULL;
            END IF;
            INSERT INTO ledger_change (change, was)
            SELECT 'emptied',
                jsonb_build_object('payments', sum(r.requests), 'amount', sum(r.amount))
            FROM payment_rollup r WHERE r.unit = 'hour';
    END CASE;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION ledger_change_note FROM PUBLIC;

CREATE TRIGGER ledger_change_delete AFTER DELETE ON payment_processed
    REFERENCING OLD TABLE AS was FOR EACH STATEMENT EXECUTE FUNCTION ledger_change_note();
CREATE TRIGGER ledger_change_update AFTER UPDATE ON payment_processed
    REFERENCING OLD TABLE AS was NEW TABLE AS is_now
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_change_note();
-- Triggers go by the order of their names: this one notes the totals before
-- payment_rollup_truncate empties them.
CREATE TRIGGER ledger_change_truncate AFTER TRUNCATE ON payment_processed
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_change_note();

COMMENT ON TABLE payment_rollup IS
    'Totals of payment_processed by second, minute and hour of requested_at, kept by triggers';
COMMENT ON COLUMN payment_rollup.unit IS 'second, minute or hour';
COMMENT ON COLUMN payment_rollup.starts_at IS 'The first moment of that unit of time, in UTC';
COMMENT ON COLUMN payment_rollup.processor IS 'The processor that charged';
COMMENT ON COLUMN payment_rollup.requests IS 'Number of payments';
COMMENT ON COLUMN payment_rollup.amount IS 'Their sum';
COMMENT ON FUNCTION payment_rollup_count IS
    'Trigger: adds the changed rows of payment_processed to payment_rollup, or takes them away';
COMMENT ON FUNCTION payment_rollup_clear IS
    'Trigger: empties payment_rollup when payment_processed is emptied';
COMMENT ON TABLE payment_accepted_hour IS
    'Payments by the hour in which they were accepted, as the instances counted them when their '
    'commit was confirmed';
COMMENT ON COLUMN payment_accepted_hour.starts_at IS
    'The first moment of the hour of accepted_at, in UTC';
COMMENT ON COLUMN payment_accepted_hour.payments IS
    'Payments that were accepted; added by each instance within a second';
COMMENT ON COLUMN payment_accepted_hour.amount IS 'Their sum';
COMMENT ON COLUMN payment_accepted_hour.archived IS 'Of them, payments that are archived';
COMMENT ON COLUMN payment_accepted_hour.archived_amount IS 'Their sum';
COMMENT ON TABLE payment_accepted_batch IS
    'The last batch of counts of each instance of the last days, so that none is added twice';
COMMENT ON COLUMN payment_accepted_batch.counter IS 'Chosen by the instance at its start';
COMMENT ON COLUMN payment_accepted_batch.batch IS 'Number of the batch, from 1 on';
COMMENT ON COLUMN payment_accepted_batch.added_at IS 'When it was added';
COMMENT ON FUNCTION count_accepted IS
    'Adds a batch of payments that an instance has accepted to the counts of their hours, once';
COMMENT ON TABLE ledger_change IS
    'Settled payments that were changed or removed: by a person, by payment-proxy reconcile '
    '--repair, or by a purge. What is archived or restored is not here';
COMMENT ON COLUMN ledger_change.id IS 'Number of the change';
COMMENT ON COLUMN ledger_change.changed_at IS 'When that was';
COMMENT ON COLUMN ledger_change.changed_by IS 'The role that did it';
COMMENT ON COLUMN ledger_change.application IS 'What its session called itself';
COMMENT ON COLUMN ledger_change.change IS 'removed, changed, or emptied: all payments at once';
COMMENT ON COLUMN ledger_change.correlation_id IS 'The payment; null where all were removed';
COMMENT ON COLUMN ledger_change.was IS 'The row as it was; number and sum where all were removed';
COMMENT ON COLUMN ledger_change.is_now IS 'The row as it is since then';
COMMENT ON FUNCTION ledger_change_note IS
    'Trigger: writes down which settled payments were changed or removed';
