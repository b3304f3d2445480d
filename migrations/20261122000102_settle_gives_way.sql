-- Settle in steps. Nobody waits for a settle, but it takes a CPU for more than a millisecond, and on that CPU may be next who
-- accepts for a client that waits: at 2,000 posts a second most of the slowest hundredth were those that met a settle.
-- Between its steps it gives way for a millisecond, the shortest pause there is: after the rows have left the queue, and
-- before the totals are added up. This costs no CPU to speak of, and nobody else wants the rows that are locked meanwhile.
CREATE OR REPLACE FUNCTION settle_payments(
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
        -- Give way.
        PERFORM pg_sleep(0.001);
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

CREATE OR REPLACE FUNCTION payment_rollup_count() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    sign CONSTANT integer := TG_ARGV[0];
BEGIN
    -- Give way, as long as no row of the totals is locked: others are about to add to the same ones.
    PERFORM pg_sleep(0.001);
    INSERT INTO payment_rollup AS r (unit, starts_at, processor, requests, amount)
    SELECT u.unit, date_bin(u.width, s.starts_at, 'epoch'), s.processor, sign * sum(s.requests), sign * sum(s.amount)
    FROM (
        SELECT date_bin('1 second', c.requested_at, 'epoch') AS starts_at, c.processor,
            count(*) AS requests, sum(c.amount) AS amount
        FROM changed c GROUP BY 1, 2
    ) s CROSS JOIN (
        VALUES ('hour', interval '1 hour'), ('minute', interval '1 minute'), ('second', interval '1 second')
    ) AS u (unit, width)
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT ON CONSTRAINT payment_rollup_pkey
    DO UPDATE SET requests = r.requests + excluded.requests, amount = r.amount + excluded.amount;
    RETURN NULL;
END $$;
