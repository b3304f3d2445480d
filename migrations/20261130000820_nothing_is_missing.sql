-- Nothing is missing, as far as the database itself can show it: what was accepted is counted apart from the rows, and a
-- settled row that is changed or removed leaves a trace. Nothing of it is done by the statements of a payment's life:
-- instances count what they accepted in memory and add it here once a second, and settling only adds rows.

CREATE TABLE payment_accepted_hour (
    starts_at       timestamptz   NOT NULL,
    payments        bigint        NOT NULL DEFAULT 0,
    amount          numeric(32,2) NOT NULL DEFAULT 0,
    archived        bigint        NOT NULL DEFAULT 0,
    archived_amount numeric(32,2) NOT NULL DEFAULT 0,
    CONSTRAINT payment_accepted_hour_pkey PRIMARY KEY (starts_at)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
COMMENT ON TABLE payment_accepted_hour IS 'Payments by the hour in which they were accepted, as the instances counted them when their commit was confirmed';
COMMENT ON COLUMN payment_accepted_hour.starts_at IS 'The first moment of the hour of accepted_at, in UTC';
COMMENT ON COLUMN payment_accepted_hour.payments IS 'Payments that were accepted; added by each instance within a second';
COMMENT ON COLUMN payment_accepted_hour.amount IS 'Their sum';
COMMENT ON COLUMN payment_accepted_hour.archived IS 'Of them, payments that are archived';
COMMENT ON COLUMN payment_accepted_hour.archived_amount IS 'Their sum';

-- Only adds, so that whoever has the service's password cannot lower a count.
CREATE FUNCTION count_accepted(hours timestamptz[], counts bigint[], amounts numeric[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM unnest(hours, counts, amounts) AS c (hour, payments, amount)
        WHERE (c.payments > 0 AND c.amount > 0 AND c.hour = date_bin('1 hour', c.hour, 'epoch')) IS NOT TRUE
    ) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'payments are counted by whole hours, and only added';
    END IF;
    INSERT INTO payment_accepted_hour AS h (starts_at, payments, amount)
    SELECT c.hour, sum(c.payments), sum(c.amount) FROM unnest(hours, counts, amounts) AS c (hour, payments, amount)
    GROUP BY 1 ORDER BY 1
    ON CONFLICT ON CONSTRAINT payment_accepted_hour_pkey
    DO UPDATE SET payments = h.payments + excluded.payments, amount = h.amount + excluded.amount;
END $$;
COMMENT ON FUNCTION count_accepted IS 'Adds payments that an instance has accepted to the counts of their hours';
-- `migrate` grants it to the service.
REVOKE EXECUTE ON FUNCTION count_accepted FROM PUBLIC;

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
COMMENT ON TABLE ledger_change IS 'Settled payments that were changed or removed: by a person, by payment-proxy reconcile --repair, or by a purge. What is archived or restored is not here';
COMMENT ON COLUMN ledger_change.id IS 'Number of the change';
COMMENT ON COLUMN ledger_change.changed_at IS 'When that was';
COMMENT ON COLUMN ledger_change.changed_by IS 'The role that did it';
COMMENT ON COLUMN ledger_change.application IS 'What its session called itself';
COMMENT ON COLUMN ledger_change.change IS 'removed, changed, or emptied: all payments at once';
COMMENT ON COLUMN ledger_change.correlation_id IS 'The payment; null where all were removed';
COMMENT ON COLUMN ledger_change.was IS 'The row as it was; number and sum where all were removed';
COMMENT ON COLUMN ledger_change.is_now IS 'The row as it is since then';

CREATE FUNCTION ledger_change_note() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    CASE TG_OP
        WHEN 'DELETE' THEN
            INSERT INTO ledger_change (change, correlation_id, was)
            SELECT 'removed', w.correlation_id, to_jsonb(w) FROM was w
            WHERE NOT EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = w.correlation_id)
            ORDER BY w.correlation_id;
        WHEN 'UPDATE' THEN
            INSERT INTO ledger_change (change, correlation_id, was, is_now)
            SELECT CASE WHEN i.correlation_id IS NULL THEN 'removed' ELSE 'changed' END, w.correlation_id, to_jsonb(w),
                CASE WHEN i.correlation_id IS NOT NULL THEN to_jsonb(i) END
            FROM was w LEFT JOIN is_now i ON i.correlation_id = w.correlation_id
            WHERE i IS DISTINCT FROM w
            ORDER BY w.correlation_id;
        ELSE
            INSERT INTO ledger_change (change, was)
            SELECT 'emptied', jsonb_build_object('payments', sum(r.requests), 'amount', sum(r.amount))
            FROM payment_rollup r WHERE r.unit = 'hour';
    END CASE;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ledger_change_note IS 'Trigger: writes down which settled payments were changed or removed';
REVOKE EXECUTE ON FUNCTION ledger_change_note FROM PUBLIC;

CREATE TRIGGER ledger_change_delete AFTER DELETE ON payment_processed
    REFERENCING OLD TABLE AS was FOR EACH STATEMENT EXECUTE FUNCTION ledger_change_note();
CREATE TRIGGER ledger_change_update AFTER UPDATE ON payment_processed
    REFERENCING OLD TABLE AS was NEW TABLE AS is_now FOR EACH STATEMENT EXECUTE FUNCTION ledger_change_note();
-- By the order of their names before the totals are emptied.
CREATE TRIGGER ledger_change_truncate AFTER TRUNCATE ON payment_processed
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_change_note();

-- As before, and what was accepted is not counted any more either.
CREATE OR REPLACE FUNCTION payment_rollup_clear() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    TRUNCATE payment_rollup;
    DELETE FROM reconcile_finding;
    DELETE FROM payment_accepted_hour;
    RETURN NULL;
END $$;

CREATE FUNCTION audit.balance(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (
    hour timestamptz, accepted bigint, settled bigint, archived bigint, dead bigint, open bigint, discarded bigint,
    missing bigint, uncounted bigint, amount_missing numeric
)
LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := date_trunc('hour', coalesce(from_time, '-infinity'), 'UTC');
    ends   CONSTANT timestamptz := coalesce(to_time, 'infinity');
    -- An instance may have added what it had counted before, for a second.
    purged CONSTANT timestamptz := (SELECT date_trunc('hour', max(c.changed_at), 'UTC') FROM ledger_change c WHERE c.change = 'emptied');
BEGIN
    PERFORM audit.refuse_upside_down(coalesce(from_time, '-infinity'), ends);
    RETURN QUERY
    WITH part AS (
        SELECT h.starts_at AS hour, h.payments AS accepted, 0::bigint AS settled, h.archived, 0::bigint AS dead,
            0::bigint AS open, 0::bigint AS discarded, h.amount - h.archived_amount AS amount
        FROM payment_accepted_hour h WHERE h.starts_at >= begins AND h.starts_at < ends
        UNION ALL
        -- Nothing is charged before it is accepted; a day is for clocks that are set back.
        SELECT date_bin('1 hour', p.accepted_at, 'epoch'), 0, count(*), 0, 0, 0, 0, -sum(p.amount)
        FROM payment_processed p
        WHERE p.requested_at >= begins - interval '1 day' AND p.accepted_at >= begins AND p.accepted_at < ends GROUP BY 1
        UNION ALL
        SELECT date_bin('1 hour', d.accepted_at, 'epoch'), 0, 0, 0, count(*), 0, 0, -sum(d.amount)
        FROM payment_dead_letter d WHERE d.accepted_at >= begins AND d.accepted_at < ends GROUP BY 1
        UNION ALL
        SELECT date_bin('1 hour', q.accepted_at, 'epoch'), 0, 0, 0, 0, count(*), 0, -sum(q.amount)
        FROM payment_queue q WHERE q.accepted_at >= begins AND q.accepted_at < ends
            AND NOT EXISTS (SELECT FROM payment_processed p WHERE p.correlation_id = q.correlation_id)
            AND NOT EXISTS (SELECT FROM payment_dead_letter d WHERE d.correlation_id = q.correlation_id)
        GROUP BY 1
        UNION ALL
        SELECT date_bin('1 hour', d.accepted_at, 'epoch'), 0, 0, 0, 0, 0, count(*), -sum(d.amount)
        FROM payment_decision d
        WHERE d.decision = 'discarded' AND d.accepted_at >= begins AND d.accepted_at < ends GROUP BY 1
    ), total AS (
        SELECT p.hour, sum(p.accepted)::bigint AS accepted, sum(p.settled)::bigint AS settled,
            sum(p.archived)::bigint AS archived, sum(p.dead)::bigint AS dead, sum(p.open)::bigint AS open,
            sum(p.discarded)::bigint AS discarded, sum(p.amount) AS amount
        FROM part p GROUP BY p.hour
    )
    SELECT t.hour, t.accepted, t.settled, t.archived, t.dead, t.open, t.discarded,
        CASE WHEN t.hour > purged IS NOT FALSE THEN greatest(d.difference, 0) END,
        CASE WHEN t.hour > purged IS NOT FALSE THEN greatest(-d.difference, 0) END,
        CASE WHEN t.hour > purged IS NOT FALSE THEN t.amount END
    FROM total t
    CROSS JOIN LATERAL (SELECT t.accepted - t.settled - t.archived - t.dead - t.open - t.discarded AS difference) AS d
    ORDER BY t.hour;
END $$;
COMMENT ON FUNCTION audit.balance IS 'Payments by the hour in which they were accepted, from the hour of from_time to before to_time, null for an open end: how many were accepted, as the instances counted them, and what became of them. missing: accepted, and nowhere any more; uncounted: there, and not counted, because their instance was killed within a second or its commit was not confirmed, or because nobody accepted them; amount_missing: the sum that was accepted less the sum of what is there, so not 0 where amounts were changed. Null for hours of before a purge. An error where the range is upside down';

-- The auditor's rights to what is new, where the defaults of this installation do not give them.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'auditor') THEN
        GRANT SELECT ON payment_accepted_hour, ledger_change, reconcile_run, reconcile_finding TO auditor;
    END IF;
END $$;
