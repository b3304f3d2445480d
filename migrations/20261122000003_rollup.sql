-- Totals of payment_processed by second, minute and hour, so that a summary of any range over any number
-- of payments reads a few hundred rows. Triggers keep them: whatever changes the books, by whatever
-- statement, changes the totals in the same transaction.

CREATE TABLE payment_rollup (
    unit      text          NOT NULL,
    starts_at timestamptz   NOT NULL,
    processor text          NOT NULL,
    requests  bigint        NOT NULL,
    amount    numeric(20,2) NOT NULL,
    CONSTRAINT payment_rollup_pkey PRIMARY KEY (unit, starts_at, processor),
    CONSTRAINT payment_rollup_unit_is_known CHECK (unit IN ('second', 'minute', 'hour'))
) WITH (
    -- The newest rows are updated with every settle.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
COMMENT ON TABLE payment_rollup IS 'Totals of payment_processed by second, minute and hour of requested_at, kept by triggers';
COMMENT ON COLUMN payment_rollup.unit IS 'second, minute or hour';
COMMENT ON COLUMN payment_rollup.starts_at IS 'The first moment of that unit of time, in UTC';
COMMENT ON COLUMN payment_rollup.processor IS 'The processor that charged';
COMMENT ON COLUMN payment_rollup.requests IS 'Number of payments';
COMMENT ON COLUMN payment_rollup.amount IS 'Their sum';

-- Adds the changed payments `sign` times (1 or -1), in the order of the key, so that two settles that
-- touch the same rows cannot deadlock.
CREATE FUNCTION payment_rollup_count() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sign CONSTANT integer := TG_ARGV[0];
BEGIN
    INSERT INTO payment_rollup AS r (unit, starts_at, processor, requests, amount)
    SELECT u.unit, date_trunc(u.unit, c.requested_at, 'UTC'), c.processor, sign * count(*), sign * sum(c.amount)
    FROM changed c CROSS JOIN (VALUES ('hour'), ('minute'), ('second')) AS u (unit)
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT ON CONSTRAINT payment_rollup_pkey
    DO UPDATE SET requests = r.requests + excluded.requests, amount = r.amount + excluded.amount;
    RETURN NULL;
END $$;

CREATE FUNCTION payment_rollup_clear() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE payment_rollup;
    RETURN NULL;
END $$;

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
