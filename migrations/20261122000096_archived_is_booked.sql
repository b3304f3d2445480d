-- A settle that began before a payment was archived does not see that it was, waits for the row that leaves the
-- books, and would then book it anew. The trigger looks again, at the moment that it runs: such a settle fails
-- (class 40, to be done again), and done again it sees what is archived.
CREATE OR REPLACE FUNCTION payment_rollup_count() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    sign CONSTANT integer := TG_ARGV[0];
BEGIN
    IF TG_OP = 'INSERT' AND EXISTS (SELECT FROM changed c JOIN payment_archived a ON a.correlation_id = c.correlation_id) THEN
        RAISE serialization_failure USING MESSAGE = 'a payment that is archived must not be booked again';
    END IF;
    INSERT INTO payment_rollup AS r (unit, starts_at, processor, requests, amount)
    SELECT u.unit, date_trunc(u.unit, c.requested_at, 'UTC'), c.processor, sign * count(*), sign * sum(c.amount)
    FROM changed c CROSS JOIN (VALUES ('hour'), ('minute'), ('second')) AS u (unit)
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT ON CONSTRAINT payment_rollup_pkey
    DO UPDATE SET requests = r.requests + excluded.requests, amount = r.amount + excluded.amount;
    RETURN NULL;
END $$;
