-- pgbench: payments put into the queue one by one, a commit each
INSERT INTO payment_queue (correlation_id, amount) VALUES (gen_random_uuid(), 19.90);
