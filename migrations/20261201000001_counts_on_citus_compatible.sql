-- Citus plans no DELETE whose condition calls what is volatile, so no batch of counts was added
-- there. Otherwise the function is as it was.
CREATE OR REPLACE FUNCTION count_accepted(
    counted_by uuid, number bigint, hours timestamptz[], counts bigint[], amounts numeric[]
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    -- Longer than an instance goes on with a batch.
    forgotten CONSTANT timestamptz := clock_timestamp() - interval '7 days';
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
        DELETE FROM payment_accepted_batch b WHERE b.added_at < forgotten;
    END IF;
    INSERT INTO payment_accepted_hour AS h (starts_at, payments, amount)
    SELECT c.hour, sum(c.payments), sum(c.amount)
    FROM unnest(hours, counts, amounts) AS c (hour, payments, amount)
    GROUP BY 1 ORDER BY 1
    ON CONFLICT ON CONSTRAINT payment_accepted_hour_pkey
    DO UPDATE SET payments = h.payments + excluded.payments, amount = h.amount + excluded.amount;
END $$;
