-- The totals are written by the triggers as the owner of the tables, so that the role that settles payments needs
-- no right to change them. The path is fixed: nobody can put a table of his own in front.
ALTER FUNCTION payment_rollup_count() SECURITY DEFINER SET search_path = public, pg_temp;
ALTER FUNCTION payment_rollup_clear() SECURITY DEFINER SET search_path = public, pg_temp;
REVOKE EXECUTE ON FUNCTION payment_rollup_count(), payment_rollup_clear() FROM PUBLIC;
