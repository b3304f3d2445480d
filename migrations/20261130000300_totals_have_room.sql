-- Totals have room for whatever their payments add up to. With numeric(20,2) a processor's hour was full after a million
-- payments of the largest amount: each further one was charged and could not be recorded. Now there is room for
-- 10^18 of them. Of sums the service itself reads those of fewer than 7 * 10^14 such payments (28 digits).
--
-- The values stay as they are and no table is rewritten. Functions whose bodies use the columns (BEGIN ATOMIC) are in
-- the way of the change; each of them is replaced for its duration, and put back as it was, with its comment and
-- rights.
DO $$
DECLARE
    user_function record;
    definitions text[] := '{}';
    definition text;
BEGIN
    FOR user_function IN
        SELECT DISTINCT d.objid AS oid, d.objid::regproc AS name
        FROM pg_depend d
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attname = 'amount'
        WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (
            'public.payment_rollup'::regclass, 'public.payment_archived_hour'::regclass,
            'public.payment_archived_month'::regclass
        )
    LOOP
        definitions := definitions || pg_get_functiondef(user_function.oid);
        EXECUTE format(
            'CREATE OR REPLACE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql AS ''BEGIN END''',
            user_function.name, pg_get_function_arguments(user_function.oid),
            pg_get_function_result(user_function.oid)
        );
    END LOOP;
    ALTER TABLE public.payment_rollup ALTER COLUMN amount TYPE numeric(32,2);
    ALTER TABLE public.payment_archived_hour ALTER COLUMN amount TYPE numeric(32,2);
    ALTER TABLE public.payment_archived_month ALTER COLUMN amount TYPE numeric(32,2);
    FOREACH definition IN ARRAY definitions LOOP
        EXECUTE definition;
    END LOOP;
END $$;
