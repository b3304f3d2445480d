-- Most payments come alone: at 1,000 a second still nearly every commit has one. For one, arrays and what puts them
-- together cost a third of the whole statement.

-- As `accept_payments`, for one payment. `queued_row` is null where it was in the queue already; `booked_amount` is
-- not null where it is settled, archived or dead, and then it is not in the queue.
--
-- VOLATILE for the same reason as there.
CREATE FUNCTION accept_payment(
    payment uuid, amount numeric, claimed_for text, lease interval, late_charge interval, traceparent text,
    OUT queued_row bigint, OUT moment timestamptz, OUT stamp timestamptz, OUT booked_amount numeric
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    moment := clock_timestamp();
    IF claimed_for IS NULL THEN
        INSERT INTO payment_queue (correlation_id, amount, accepted_at, traceparent)
        VALUES (payment, amount, moment, traceparent)
        ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING
        RETURNING id INTO queued_row;
    ELSE
        stamp := date_trunc('milliseconds', moment);
        INSERT INTO payment_queue
            (correlation_id, amount, accepted_at, lease_until, attempt, processor, requested_at, doubt_until, traceparent)
        VALUES (payment, amount, moment, now() + lease, 1, claimed_for, stamp, now() + lease + late_charge, traceparent)
        ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING
        RETURNING id INTO queued_row;
    END IF;
    SELECT b.amount INTO booked_amount FROM (
        SELECT p.amount FROM payment_processed p WHERE p.correlation_id = payment
        UNION ALL
        SELECT d.amount FROM payment_dead_letter d WHERE d.correlation_id = payment
        UNION ALL
        SELECT a.amount FROM payment_archived a WHERE a.correlation_id = payment
    ) b;
    IF booked_amount IS NOT NULL THEN
        DELETE FROM payment_queue q WHERE q.id = queued_row;
    END IF;
END
$$;
COMMENT ON FUNCTION accept_payment IS 'Puts one payment into the queue, if it is new, and says what became of it';
