-- Autovacuum analyzes these tables every few seconds while payments come fast. From 300 rows for each step of a histogram,
-- 100 steps as PostgreSQL is shipped, that takes a CPU for a fifth of a second, which a hundred payments then wait for.
-- No plan here asks for more than a tenth of that: payments are found by their ids, ranges by an index, whatever it holds.
ALTER TABLE payment_processed
    ALTER COLUMN correlation_id SET STATISTICS 10,
    ALTER COLUMN amount SET STATISTICS 10,
    ALTER COLUMN processor SET STATISTICS 10,
    ALTER COLUMN requested_at SET STATISTICS 10,
    ALTER COLUMN accepted_at SET STATISTICS 10,
    ALTER COLUMN settled_at SET STATISTICS 10,
    ALTER COLUMN attempt SET STATISTICS 10;
