-- pgbench: payments put into the queue in batches of 100
INSERT INTO payment_queue (correlation_id, amount)
SELECT id, 19.90 FROM unnest(ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 100))) AS id;
