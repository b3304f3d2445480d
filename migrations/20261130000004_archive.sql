-- Old months move from the ledger to files: `payment-proxy archive`; `restore` brings them back.
-- What moves leaves payment_processed, and by its triggers payment_rollup, and is written here in
-- the same transaction. So payment_rollup is always what payment_processed adds up to, and both
-- with these tables are all that was ever settled.

-- For ever: an archived payment that is posted again must still be known, since it was charged.
CREATE TABLE payment_archived (
    correlation_id uuid          NOT NULL,
    amount         numeric(14,2) NOT NULL,
    month          date          NOT NULL,
    CONSTRAINT payment_archived_pkey PRIMARY KEY (correlation_id)
);

CREATE TABLE payment_archived_hour (
    starts_at timestamptz   NOT NULL,
    processor text          NOT NULL,
    requests  bigint        NOT NULL,
    amount    numeric(32,2) NOT NULL,
    -- In an hour in which a fee changed, the payments before and after are told apart.
    fee_since timestamptz   NOT NULL DEFAULT '-infinity',
    CONSTRAINT payment_archived_hour_pkey PRIMARY KEY (starts_at, processor, fee_since)
);

CREATE TABLE payment_archived_month (
    month       date          NOT NULL,
    file        text          NOT NULL,
    sha256      text          NOT NULL,
    requests    bigint        NOT NULL,
    amount      numeric(32,2) NOT NULL,
    exported_at timestamptz   NOT NULL DEFAULT clock_timestamp(),
    -- Null: some payments of the file may still be in the ledger. `payment-proxy archive` goes on
    -- there.
    moved_at    timestamptz,
    CONSTRAINT payment_archived_month_pkey PRIMARY KEY (month),
    CONSTRAINT payment_archived_month_is_a_first_day CHECK (extract(day FROM month) = 1)
);

-- A settle that began before a payment was archived does not see that it was, waits for the row
-- that leaves the ledger, and would then record the payment anew. This trigger looks again, when
-- the row is in the ledger: such a settle fails (class 40, to be tried again), and the next try
-- sees what is archived.
CREATE FUNCTION payment_archived_is_recorded() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids CONSTANT uuid[] := ARRAY(SELECT b.correlation_id FROM recorded b);
BEGIN
    IF EXISTS (
        SELECT FROM public.payment_archived a WHERE a.correlation_id = ANY (ids)
    ) THEN
        RAISE serialization_failure
            USING MESSAGE = 'a payment that is archived must not be recorded again';
    END IF;
    RETURN NULL;
END $$;
-- Triggers go by the order of their names: before payment_rollup_insert, which also sees what was
-- inserted.
CREATE TRIGGER payment_archived_is_recorded AFTER INSERT ON payment_processed
    REFERENCING NEW TABLE AS recorded FOR EACH STATEMENT
    EXECUTE FUNCTION payment_archived_is_recorded();

COMMENT ON TABLE payment_archived IS
    'Settled payments that are in a file and not in payment_processed any more';
COMMENT ON COLUMN payment_archived.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_archived.amount IS 'What was charged';
COMMENT ON COLUMN payment_archived.month IS
    'First day of the month (UTC) of requested_at; payment_archived_month has its file';
COMMENT ON TABLE payment_archived_hour IS
    'Totals of the archived payments by hour of requested_at, and by fee in an hour in which that '
    'changed; nothing finer is known of them here';
COMMENT ON COLUMN payment_archived_hour.starts_at IS 'The first moment of the hour, in UTC';
COMMENT ON COLUMN payment_archived_hour.processor IS 'The processor that charged';
COMMENT ON COLUMN payment_archived_hour.requests IS 'Number of payments';
COMMENT ON COLUMN payment_archived_hour.amount IS 'Their sum';
COMMENT ON COLUMN payment_archived_hour.fee_since IS
    'The payments since the fee changed within the hour; -infinity: those before it changed, all '
    'where it did not';
COMMENT ON TABLE payment_archived_month IS
    'Months whose payments were written to a file, which was read back and found to be equal to '
    'the totals';
COMMENT ON COLUMN payment_archived_month.month IS 'First day of the month (UTC)';
COMMENT ON COLUMN payment_archived_month.file IS 'Name of the file';
COMMENT ON COLUMN payment_archived_month.sha256 IS 'SHA-256 of what is in it, in hexadecimal';
COMMENT ON COLUMN payment_archived_month.requests IS 'Number of payments in it';
COMMENT ON COLUMN payment_archived_month.amount IS 'Their sum';
COMMENT ON COLUMN payment_archived_month.exported_at IS 'When it was found to be complete';
COMMENT ON COLUMN payment_archived_month.moved_at IS
    'When the last of them had left payment_processed; null: not yet';
COMMENT ON FUNCTION payment_archived_is_recorded IS
    'Trigger: refuses to record a payment that is archived';
