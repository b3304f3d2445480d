-- Vacuum of the queue takes 0.1 s of a CPU every 10 s where 10,000 payments pass a second. In one go, as it was, it stood in
-- the way of all who posted meanwhile, who then waited for up to 0.1 s. Now it takes a quarter of a CPU four times as
-- long. Half of a server's default speed, so that a million dead rows are gone within a minute.
ALTER TABLE payment_queue SET (autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_cost_limit = 50);
