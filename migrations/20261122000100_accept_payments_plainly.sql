-- The statement that accepts, twice over, as the one that settles: as it nearly always goes, and for payments that
-- are in the queue already. Looking out for those in each row takes a tenth of the whole statement.

-- As before, but first as if none of them were in the queue.
CREATE OR REPLACE FUNCTION accept_payments(
    ids uuid[], amounts numeric[], claimed_for text, lease interval, late_charge interval, traceparents text[],
    OUT queued_ids uuid[], OUT queued_rows bigint[], OUT moment timestamptz, OUT stamp timestamptz,
    OUT booked_ids uuid[], OUT booked_amounts numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lease_end CONSTANT timestamptz := coalesce(now() + CASE WHEN claimed_for IS NOT NULL THEN lease END, '-infinity');
    doubt_end CONSTANT timestamptz := CASE WHEN claimed_for IS NOT NULL THEN now() + lease + late_charge END;
    attempts  CONSTANT integer := CASE WHEN claimed_for IS NULL THEN 0 ELSE 1 END;
BEGIN
    moment := clock_timestamp();
    stamp := CASE WHEN claimed_for IS NOT NULL THEN date_trunc('milliseconds', moment) END;
    BEGIN
        WITH queued AS (
            INSERT INTO payment_queue
                (correlation_id, amount, accepted_at, lease_until, attempt, processor, requested_at, doubt_until, traceparent)
            SELECT i.id, i.amount, moment, lease_end, attempts, claimed_for, stamp, doubt_end, i.traceparent
            FROM unnest(ids, amounts, traceparents) AS i (id, amount, traceparent)
            RETURNING correlation_id, id
        )
        SELECT array_agg(q.correlation_id), array_agg(q.id) INTO queued_ids, queued_rows FROM queued q;
    EXCEPTION
        WHEN unique_violation THEN
            WITH queued AS (
                INSERT INTO payment_queue
                    (correlation_id, amount, accepted_at, lease_until, attempt, processor, requested_at, doubt_until, traceparent)
                SELECT i.id, i.amount, moment, lease_end, attempts, claimed_for, stamp, doubt_end, i.traceparent
                FROM unnest(ids, amounts, traceparents) AS i (id, amount, traceparent)
                ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING
                RETURNING correlation_id, id
            )
            SELECT array_agg(q.correlation_id), array_agg(q.id) INTO queued_ids, queued_rows FROM queued q;
    END;
    SELECT array_agg(b.correlation_id), array_agg(b.amount) INTO booked_ids, booked_amounts FROM (
        SELECT p.correlation_id, p.amount FROM payment_processed p WHERE p.correlation_id = ANY (ids)
        UNION ALL
        SELECT d.correlation_id, d.amount FROM payment_dead_letter d WHERE d.correlation_id = ANY (ids)
        UNION ALL
        SELECT a.correlation_id, a.amount FROM payment_archived a WHERE a.correlation_id = ANY (ids)
    ) b;
    IF booked_ids IS NOT NULL THEN
        DELETE FROM payment_queue q WHERE q.id = ANY (queued_rows) AND q.correlation_id = ANY (booked_ids);
    END IF;
END
$$;
