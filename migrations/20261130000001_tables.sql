-- The tables of a payment's life: payment_queue -> payment_processed, or payment_dead_letter.
-- A payment is in exactly one of the three. Attempts that did not charge are in payment_attempt.

-- Accepted and not yet settled. UNLOGGED by default; QUEUE_DURABILITY=logged switches it.
CREATE UNLOGGED TABLE payment_queue (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    correlation_id uuid          NOT NULL,
    amount         numeric(14,2) NOT NULL,
    accepted_at    timestamptz   NOT NULL DEFAULT clock_timestamp(),
    -- Claimed while this is in the future. No index: a claim updates it, and stays HOT without one.
    lease_until    timestamptz   NOT NULL DEFAULT '-infinity',
    -- Claims made so far; the fence of every write that follows a claim.
    attempt        integer       NOT NULL DEFAULT 0,
    -- The evidence, which a claim writes before the first byte goes out: where this payment may
    -- have been charged, under which requested_at, and from when on a 404 of that processor proves
    -- that it was not charged.
    processor      text,
    requested_at   timestamptz,
    doubt_until    timestamptz,
    -- The client's trace goes with the payment through the queue, to whichever instance claims it.
    traceparent    text,
    CONSTRAINT payment_queue_correlation_id_key UNIQUE (correlation_id),
    -- Both checks are short: PostgreSQL parses the text of a CHECK again for each statement that
    -- writes to the table, and most payments come in a statement of their own.
    -- The sign of NaN is NaN.
    CONSTRAINT payment_queue_amount_is_positive CHECK (sign(amount) = 1),
    -- All three or none.
    CONSTRAINT payment_queue_evidence_is_whole CHECK (
        num_nonnulls(processor, requested_at, doubt_until) % 3 = 0
    )
) WITH (
    -- Room for the new version of every row of a page, when all are claimed at once.
    fillfactor = 40,
    -- Every payment leaves two dead rows here, so vacuum goes by their number, and at once.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000,
    -- At 10,000 payments a second vacuum needs 0.1 s of a CPU every 10 s. At full speed it delayed
    -- posts by up to 0.1 s. At this speed, half of a server's default, it takes a quarter of a CPU
    -- four times as long; a million dead rows are gone within a minute.
    autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_cost_limit = 50
);

-- Which life of the queue this is. The row is gone after whatever empties an unlogged queue: a
-- crash of the server, or a failover to a standby. It is as durable as the queue; QUEUE_DURABILITY
-- switches both.
CREATE UNLOGGED TABLE payment_queue_life (
    one      boolean     NOT NULL DEFAULT true,
    life     uuid        NOT NULL DEFAULT gen_random_uuid(),
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT payment_queue_life_pkey PRIMARY KEY (one),
    CONSTRAINT payment_queue_life_is_one CHECK (one)
);
INSERT INTO payment_queue_life DEFAULT VALUES;

-- When the queue was found empty, though nobody had purged it. How many payments were lost, the
-- counts of accepted payments tell (audit.balance). Operators are told until one of them
-- acknowledges it; the row stays.
CREATE TABLE payment_queue_emptied (
    life                uuid        NOT NULL,
    noticed_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    acknowledged_at     timestamptz,
    acknowledged_by     text,
    acknowledging_role  text,
    acknowledged_reason text,
    CONSTRAINT payment_queue_emptied_pkey PRIMARY KEY (life),
    CONSTRAINT payment_queue_emptied_acknowledgement_is_whole CHECK (
        num_nonnulls(acknowledged_at, acknowledged_by, acknowledging_role, acknowledged_reason)
            % 4 = 0
    ),
    CONSTRAINT payment_queue_emptied_has_an_author CHECK (acknowledged_by <> ''),
    CONSTRAINT payment_queue_emptied_has_a_reason CHECK (acknowledged_reason <> '')
);

-- The life of the queue; a new one where it was emptied, which is noted for operators (Guard:
-- EmptiedQueueIsNoticed). Null on a standby, whose queue nobody can
-- read. Each instance asks it over every new connection, before the first statement: a server that
-- crashed or stepped down has closed the old ones.
--
-- PostgreSQL replays the creation of an unlogged sequence on a standby without writing its first
-- page to disk. Where the standby is promoted before it does (up to checkpoint_timeout later), the
-- sequence of the queue cannot be read ("bad magic number in sequence"), and is made anew.
CREATE FUNCTION queue_life(OUT life uuid) LANGUAGE plpgsql VOLATILE
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    granted text;
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN;
    END IF;
    SELECT l.life INTO life FROM payment_queue_life l;
    IF life IS NULL AND NOT current_setting('transaction_read_only')::boolean THEN
        -- A new leader has no standby yet for which a commit could wait, and every connection waits
        -- for this one. What is lost of it is lost with this life of the queue.
        PERFORM set_config('synchronous_commit', 'off', true);
        INSERT INTO payment_queue_life AS l DEFAULT VALUES
        ON CONFLICT ON CONSTRAINT payment_queue_life_pkey DO NOTHING
        RETURNING l.life INTO life;
        IF FOUND THEN
            INSERT INTO payment_queue_emptied (life) VALUES (life);
            BEGIN
                PERFORM nextval('payment_queue_id_seq');
            EXCEPTION
                WHEN internal_error OR data_corrupted THEN
                    SELECT string_agg(DISTINCT a.grantee::regrole::text, ', ')
                    INTO granted
                    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
                    WHERE c.oid = 'payment_queue_id_seq'::regclass
                        AND a.grantee NOT IN (0, c.relowner);
                    ALTER TABLE payment_queue ALTER COLUMN id DROP IDENTITY;
                    ALTER TABLE payment_queue ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY;
                    IF granted IS NOT NULL THEN
                        EXECUTE format(
                            'GRANT SELECT ON SEQUENCE payment_queue_id_seq TO %s', granted
                        );
                    END IF;
            END;
        ELSE
            -- Another instance was faster.
            SELECT l.life INTO life FROM payment_queue_life l;
        END IF;
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION queue_life FROM PUBLIC;

-- Settled: charged by exactly this processor, with the requestedAt that the processor recorded.
CREATE TABLE payment_processed (
    correlation_id uuid          NOT NULL,
    amount         numeric(14,2) NOT NULL,
    processor      text          NOT NULL,
    requested_at   timestamptz   NOT NULL,
    accepted_at    timestamptz   NOT NULL,
    settled_at     timestamptz   NOT NULL DEFAULT clock_timestamp(),
    attempt        integer       NOT NULL,
    CONSTRAINT payment_processed_pkey PRIMARY KEY (correlation_id),
    CONSTRAINT payment_processed_amount_is_positive CHECK (amount > 0 AND amount <> 'NaN')
);
-- Of payments that were sent in one millisecond the index keeps the time once, so an entry takes 8
-- bytes at 7,000 payments a second and 22 where each has a time of its own. With processor and
-- amount in it, it took 39, for sums that read a second of payments at each end of a range.
CREATE INDEX payment_processed_requested_at_idx ON payment_processed (requested_at);
-- Autovacuum analyzes the ledger every few seconds while payments come fast. With 100 steps for
-- each histogram, PostgreSQL's default, that takes a CPU for 0.2 s. No plan here needs more than a
-- tenth of the steps: payments are found by their ids, and ranges by an index in any case.
ALTER TABLE payment_processed
    ALTER COLUMN correlation_id SET STATISTICS 10,
    ALTER COLUMN amount SET STATISTICS 10,
    ALTER COLUMN processor SET STATISTICS 10,
    ALTER COLUMN requested_at SET STATISTICS 10,
    ALTER COLUMN accepted_at SET STATISTICS 10,
    ALTER COLUMN settled_at SET STATISTICS 10,
    ALTER COLUMN attempt SET STATISTICS 10;

-- Payments that no processor will take. An operator decides.
CREATE TABLE payment_dead_letter (
    correlation_id uuid          NOT NULL,
    amount         numeric(14,2) NOT NULL,
    accepted_at    timestamptz   NOT NULL,
    died_at        timestamptz   NOT NULL DEFAULT clock_timestamp(),
    attempt        integer       NOT NULL,
    processor      text          NOT NULL,
    reason         text          NOT NULL,
    -- Set where that processor holds the id: then a retry may ask no other processor.
    requested_at   timestamptz,
    CONSTRAINT payment_dead_letter_pkey PRIMARY KEY (correlation_id),
    CONSTRAINT payment_dead_letter_reason_is_given CHECK (reason <> '')
);
-- Lists and counts of the newest dead letters take the same time however many there are.
CREATE INDEX payment_dead_letter_died_at_idx ON payment_dead_letter (died_at);

-- The first attempt of nearly every payment charges it, and payment_processed has all that is to
-- be known of that attempt. Only the other attempts have a row here, which the statement writes
-- that releases or dead-letters the payment: a payment that is charged at once pays nothing for
-- its history.
CREATE TABLE payment_attempt (
    correlation_id uuid        NOT NULL,
    -- An attempt is one requested_at. A payment in doubt is asked for again and again under the
    -- same one; these claims share a row, so that an hour of silence leaves one row, not thousands.
    requested_at   timestamptz NOT NULL,
    outcome        text        NOT NULL,
    processor      text        NOT NULL,
    reason         text        NOT NULL,
    first_claim    integer     NOT NULL,
    last_claim     integer     NOT NULL,
    first_ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_ended_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT payment_attempt_pkey PRIMARY KEY (correlation_id, requested_at, outcome),
    CONSTRAINT payment_attempt_outcome_is_known CHECK (
        outcome IN ('not_charged', 'in_doubt', 'refused')
    )
) WITH (fillfactor = 80);

-- The row of an attempt changes only while its payment is open, and gets its times from the
-- database. A write that breaks this is left out without an error: a late failure is an opinion,
-- and must not keep the rest of its statement from being written. Attempts that charged have no
-- row here, so most payments do not pay for this. The owner, who restores and repairs, is free.
CREATE FUNCTION payment_attempt_guard() RETURNS trigger LANGUAGE plpgsql
    SET search_path = public, pg_temp AS $$
BEGIN
    IF pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.last_claim < OLD.last_claim
        OR EXISTS (SELECT FROM payment_processed p WHERE p.correlation_id = NEW.correlation_id)
        OR EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = NEW.correlation_id)
    THEN
        RETURN NULL;
    END IF;
    NEW.last_ended_at := statement_timestamp();
    IF TG_OP = 'INSERT' THEN
        NEW.first_ended_at := NEW.last_ended_at;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payment_attempt_guard BEFORE INSERT OR UPDATE ON payment_attempt
    FOR EACH ROW EXECUTE FUNCTION payment_attempt_guard();

COMMENT ON TABLE payment_queue IS 'Payments accepted and not yet settled';
COMMENT ON COLUMN payment_queue.id IS 'Order of arrival; claims go in this order';
COMMENT ON COLUMN payment_queue.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_queue.amount IS 'What is to be charged';
COMMENT ON COLUMN payment_queue.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN payment_queue.lease_until IS
    'Claimed by a worker until then; any worker may claim it after that';
COMMENT ON COLUMN payment_queue.attempt IS
    'Claims made so far; 10,000 more where it was put back into a queue that was emptied';
COMMENT ON COLUMN payment_queue.processor IS
    'The only processor that may have charged this payment: it is assigned to that one; null: '
    'none can have';
COMMENT ON COLUMN payment_queue.requested_at IS 'The requestedAt sent to that processor';
COMMENT ON COLUMN payment_queue.doubt_until IS
    'From then on a 404 of that processor proves that it did not charge';
COMMENT ON COLUMN payment_queue.traceparent IS
    'The traceparent (W3C) that the client sent with the payment, null if none';
COMMENT ON TABLE payment_queue_life IS
    'One row, gone after a crash or a failover that emptied an unlogged queue';
COMMENT ON COLUMN payment_queue_life.one IS 'Always true: there is one row';
COMMENT ON COLUMN payment_queue_life.life IS 'Another one each time that the queue was emptied';
COMMENT ON COLUMN payment_queue_life.began_at IS 'When that was noticed';
COMMENT ON TABLE payment_queue_emptied IS
    'When a crash or a failover of the database server emptied the queue; audit.balance says how '
    'many accepted payments are missing since';
COMMENT ON COLUMN payment_queue_emptied.life IS 'The life of the queue that began then';
COMMENT ON COLUMN payment_queue_emptied.noticed_at IS 'When an instance noticed it';
COMMENT ON COLUMN payment_queue_emptied.acknowledged_at IS
    'When an operator acknowledged it; null: operators are told of it';
COMMENT ON COLUMN payment_queue_emptied.acknowledged_by IS 'Who did so, as he said';
COMMENT ON COLUMN payment_queue_emptied.acknowledging_role IS 'The role that it was done by';
COMMENT ON COLUMN payment_queue_emptied.acknowledged_reason IS
    'What was done about it, in the words of whoever acknowledged it';
COMMENT ON FUNCTION queue_life IS
    'The life of the queue, which is another one after a crash or a failover has emptied it';
COMMENT ON TABLE payment_processed IS
    'The ledger: payments charged by a processor, which the summary adds up';
COMMENT ON COLUMN payment_processed.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_processed.amount IS 'What was charged';
COMMENT ON COLUMN payment_processed.processor IS 'The processor that charged it';
COMMENT ON COLUMN payment_processed.requested_at IS
    'requestedAt as that processor recorded it; the time that summaries filter by';
COMMENT ON COLUMN payment_processed.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN payment_processed.settled_at IS 'When the charge was recorded here';
COMMENT ON COLUMN payment_processed.attempt IS 'Claims that it took';
COMMENT ON TABLE payment_dead_letter IS
    'Payments that no processor will take; an operator retries or discards them';
COMMENT ON COLUMN payment_dead_letter.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_dead_letter.amount IS 'What was to be charged';
COMMENT ON COLUMN payment_dead_letter.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN payment_dead_letter.died_at IS 'When it became a dead letter';
COMMENT ON COLUMN payment_dead_letter.attempt IS 'Claims made until then';
COMMENT ON COLUMN payment_dead_letter.processor IS 'The processor that refused it';
COMMENT ON COLUMN payment_dead_letter.reason IS 'Why, in the processor''s words where it gave any';
COMMENT ON COLUMN payment_dead_letter.requested_at IS
    'Not null: that processor holds the id, so no other may be asked';
COMMENT ON TABLE payment_attempt IS
    'Attempts that did not charge; the one that did is in payment_processed. Rows are never '
    'removed by the service, but by a purge';
COMMENT ON COLUMN payment_attempt.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_attempt.requested_at IS 'The requestedAt of the attempt';
COMMENT ON COLUMN payment_attempt.outcome IS
    'not charged: proved, any processor could get the payment next; in doubt: it stayed assigned '
    'to that processor; refused: it became a dead letter';
COMMENT ON COLUMN payment_attempt.processor IS 'The processor that was asked';
COMMENT ON COLUMN payment_attempt.reason IS 'Why, as it was last seen';
COMMENT ON COLUMN payment_attempt.first_claim IS
    'Number of the first claim with this outcome under this requested_at';
COMMENT ON COLUMN payment_attempt.last_claim IS 'Number of the last one';
COMMENT ON COLUMN payment_attempt.first_ended_at IS 'When that was recorded the first time';
COMMENT ON COLUMN payment_attempt.last_ended_at IS 'When that was recorded the last time';
COMMENT ON FUNCTION payment_attempt_guard IS
    'Trigger: but for the owner, attempts of open payments alone are added to';
