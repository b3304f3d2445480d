-- The statement that settles, twice over: as it nearly always goes, and for what may come in between. Looking out for
-- the latter in each row takes a fifth of the whole statement.

-- Moves payments that one processor has charged from the queue to the books. A row of the queue goes only if it is
-- still held for that processor; the charge is booked in any case, unless the payment is booked or archived already.
-- Says which were removed from the queue, and which were booked; null where all were, which is the rule.
--
-- First as if all were held and none was booked. Where that proves wrong nothing of it stays, and each row is looked at,
-- by a statement that sees what the others have committed meanwhile.
CREATE FUNCTION settle_payments(
    ids uuid[], charged_by text, amounts numeric[], requested timestamptz[], accepted timestamptz[], attempts integer[],
    OUT removed_ids uuid[], OUT booked_ids uuid[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held bigint;
BEGIN
    BEGIN
        DELETE FROM payment_queue q WHERE q.correlation_id = ANY (ids) AND q.processor = charged_by;
        GET DIAGNOSTICS held = ROW_COUNT;
        IF held < cardinality(ids) THEN
            RAISE no_data_found;
        END IF;
        INSERT INTO payment_processed (correlation_id, amount, processor, requested_at, accepted_at, attempt)
        SELECT c.correlation_id, c.amount, charged_by, c.requested_at, c.accepted_at, c.attempt
        FROM unnest(ids, amounts, requested, accepted, attempts)
            AS c (correlation_id, amount, requested_at, accepted_at, attempt)
        ORDER BY c.correlation_id;
        RETURN;
    EXCEPTION
        -- Not held; booked; archived, by the trigger.
        WHEN no_data_found OR unique_violation OR serialization_failure THEN
            NULL;
    END;
    WITH removed AS (
        DELETE FROM payment_queue q WHERE q.correlation_id = ANY (ids) AND q.processor = charged_by
        RETURNING q.correlation_id
    ), booked AS (
        INSERT INTO payment_processed AS p (correlation_id, amount, processor, requested_at, accepted_at, attempt)
        SELECT c.correlation_id, c.amount, charged_by, c.requested_at, c.accepted_at, c.attempt
        FROM unnest(ids, amounts, requested, accepted, attempts)
            AS c (correlation_id, amount, requested_at, accepted_at, attempt)
        WHERE NOT EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = c.correlation_id)
        ORDER BY c.correlation_id
        ON CONFLICT ON CONSTRAINT payment_processed_pkey DO NOTHING
        RETURNING p.correlation_id
    )
    SELECT
        CASE WHEN (SELECT count(*) FROM removed) < cardinality(ids) THEN ARRAY(SELECT r.correlation_id FROM removed r) END,
        CASE WHEN (SELECT count(*) FROM booked) < cardinality(ids) THEN ARRAY(SELECT b.correlation_id FROM booked b) END
    INTO removed_ids, booked_ids;
END
$$;
COMMENT ON FUNCTION settle_payments IS 'Moves payments that a processor has charged from the queue to the books, and says what was not as expected';
