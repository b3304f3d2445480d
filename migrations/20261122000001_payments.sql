-- The life of a payment: payment_queue -> payment_processed, or payment_dead_letter.
-- A payment is in exactly one of the three.

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
    -- The evidence, written before the first byte goes out: where this payment may have been charged,
    -- under which stamp, and from when on a 404 of that processor proves that it was not.
    processor      text,
    requested_at   timestamptz,
    doubt_until    timestamptz,
    CONSTRAINT payment_queue_correlation_id_key UNIQUE (correlation_id),
    CONSTRAINT payment_queue_amount_is_positive CHECK (amount > 0 AND amount <> 'NaN'),
    CONSTRAINT payment_queue_evidence_is_whole CHECK (
        (processor IS NULL) = (requested_at IS NULL) AND (processor IS NULL) = (doubt_until IS NULL)
    )
) WITH (
    -- Room for the new version of every row of a page, with processor and stamps, when all are claimed at once.
    fillfactor = 40,
    -- Every payment leaves two dead rows here: vacuum by number, at once, at full speed.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000
);
COMMENT ON TABLE payment_queue IS 'Payments accepted and not yet settled';
COMMENT ON COLUMN payment_queue.id IS 'Order of arrival; claims go in this order';
COMMENT ON COLUMN payment_queue.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_queue.amount IS 'What is to be charged';
COMMENT ON COLUMN payment_queue.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN payment_queue.lease_until IS 'Claimed by a worker until then; free for the next claim after it';
COMMENT ON COLUMN payment_queue.attempt IS 'Claims made so far';
COMMENT ON COLUMN payment_queue.processor IS 'The only processor that may have charged this payment; null: none can have';
COMMENT ON COLUMN payment_queue.requested_at IS 'The requestedAt sent to that processor';
COMMENT ON COLUMN payment_queue.doubt_until IS 'From then on a 404 of that processor proves that it did not charge';

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
CREATE INDEX payment_processed_requested_at_idx ON payment_processed (requested_at) INCLUDE (processor, amount);
COMMENT ON TABLE payment_processed IS 'Payments charged by a processor: the book that the summary adds up';
COMMENT ON COLUMN payment_processed.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_processed.amount IS 'What was charged';
COMMENT ON COLUMN payment_processed.processor IS 'The processor that charged it';
COMMENT ON COLUMN payment_processed.requested_at IS 'requestedAt as that processor recorded it; the time that summaries filter by';
COMMENT ON COLUMN payment_processed.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN payment_processed.settled_at IS 'When the charge was recorded here';
COMMENT ON COLUMN payment_processed.attempt IS 'Claims that it took';

-- Payments that no processor will take. An operator decides.
CREATE TABLE payment_dead_letter (
    correlation_id uuid          NOT NULL,
    amount         numeric(14,2) NOT NULL,
    accepted_at    timestamptz   NOT NULL,
    died_at        timestamptz   NOT NULL DEFAULT clock_timestamp(),
    attempt        integer       NOT NULL,
    processor      text          NOT NULL,
    reason         text          NOT NULL,
    -- Set where that processor holds the id: then a retry may ask nobody else.
    requested_at   timestamptz,
    CONSTRAINT payment_dead_letter_pkey PRIMARY KEY (correlation_id),
    CONSTRAINT payment_dead_letter_reason_is_given CHECK (reason <> '')
);
COMMENT ON TABLE payment_dead_letter IS 'Payments that no processor will take; an operator retries or discards them';
COMMENT ON COLUMN payment_dead_letter.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_dead_letter.amount IS 'What was to be charged';
COMMENT ON COLUMN payment_dead_letter.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN payment_dead_letter.died_at IS 'When it was given up';
COMMENT ON COLUMN payment_dead_letter.attempt IS 'Claims made until then';
COMMENT ON COLUMN payment_dead_letter.processor IS 'The processor that refused it';
COMMENT ON COLUMN payment_dead_letter.reason IS 'Why, in the processor''s words where it gave any';
COMMENT ON COLUMN payment_dead_letter.requested_at IS 'Not null: that processor holds the id, so no other may be asked';
