-- pgbench: payments put into the queue, claimed and settled in batches of 100
WITH accepted AS (
    INSERT INTO payment_queue (correlation_id, amount)
    SELECT id, 19.90 FROM unnest(ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 100))) AS id
    RETURNING id
)
SELECT array_agg(id) AS ids FROM accepted \gset
UPDATE payment_queue
SET lease_until = now() + interval '20 s', attempt = attempt + 1, processor = 'default',
    requested_at = date_trunc('milliseconds', clock_timestamp()), doubt_until = now() + interval '80 s'
WHERE id = ANY (:ids::bigint[]);
WITH settled AS (DELETE FROM payment_queue WHERE id = ANY (:ids::bigint[]) RETURNING *)
INSERT INTO payment_processed (correlation_id, amount, processor, requested_at, accepted_at, attempt)
SELECT correlation_id, amount, processor, requested_at, accepted_at, attempt FROM settled;
