-- What a statement cannot see by itself: payments that were settled, or died, after it had begun.

-- VOLATILE is the point of it: such a function looks at the tables as they are when it is called, and
-- not as they were when the statement that calls it began.
CREATE FUNCTION booked_now(ids uuid[]) RETURNS TABLE (correlation_id uuid, amount numeric)
LANGUAGE plpgsql VOLATILE STRICT ROWS 1 AS $$
BEGIN
    RETURN QUERY
        SELECT p.correlation_id, p.amount FROM payment_processed p WHERE p.correlation_id = ANY (ids)
        UNION ALL
        SELECT d.correlation_id, d.amount FROM payment_dead_letter d WHERE d.correlation_id = ANY (ids);
END
$$;
COMMENT ON FUNCTION booked_now IS 'Those of the payments that are settled or dead at this moment, with the amounts in the books';
