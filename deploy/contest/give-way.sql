-- Settles give way to accepts, where PostgreSQL has one CPU: docker-compose.contest.yml runs this
-- after the migrations, as the owner of the tables, and `make bench` does, too.
--
-- A settle delays an accept that is queued on the same CPU by more than a millisecond; at 2,000
-- posts a second most of the slowest hundredth were such. So it sleeps for a millisecond, the
-- shortest pause there is, between the DELETE and the INSERT, and again before the totals are added
-- up. Nobody else wants the rows that are locked meanwhile.
--
-- Running it again does no harm. To undo it: DROP FUNCTION give_way CASCADE;

SET lock_timeout = '2s';

BEGIN;
CREATE OR REPLACE FUNCTION give_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_sleep(0.001);
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION give_way FROM PUBLIC;

CREATE OR REPLACE TRIGGER give_way_before BEFORE INSERT ON payment_processed
    FOR EACH STATEMENT EXECUTE FUNCTION give_way();
-- Triggers go by the order of their names: before payment_rollup_insert, which locks rows of the
-- totals that other settles are about to add to.
CREATE OR REPLACE TRIGGER give_way_after AFTER INSERT ON payment_processed
    FOR EACH STATEMENT EXECUTE FUNCTION give_way();
COMMENT ON FUNCTION give_way IS
    'Trigger: a settle sleeps for a millisecond, so that accepts have the CPU';
COMMIT;
