-- What the service needs of other sessions and of the past goes through functions and triggers, so that its role has no
-- right to more than that.

-- How long the oldest transaction in this database has been open, in seconds; 0 where there is none but the caller's.
-- The age alone: whoever may read pg_stat_activity sees the statements of all roles, passwords included. It counts the
-- transactions that the owner of the tables sees: all of them where init.sql made it a member of pg_read_all_stats.
CREATE FUNCTION oldest_transaction_seconds() RETURNS double precision
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The functions behind the views: to plan the views' joins with roles, which nobody needs, takes longer.
    RETURN (
        SELECT coalesce(greatest(extract(epoch FROM clock_timestamp() - min(begun_at)), 0), 0)
        FROM pg_database AS here CROSS JOIN LATERAL (
            SELECT xact_start AS begun_at FROM pg_stat_get_activity(NULL)
            WHERE datid = here.oid AND pid <> pg_backend_pid()
            UNION ALL SELECT prepared FROM pg_prepared_xact() WHERE dbid = here.oid
        ) AS begun
        WHERE here.datname = current_database()
    );
END $$;
COMMENT ON FUNCTION oldest_transaction_seconds IS 'Age of the oldest open transaction in this database, in seconds';

-- An auditor can lift its own limits (SET, ALTER ROLE), and a snapshot that is held keeps vacuum from cleaning the
-- queue. So whoever can neither be asked nor outwaited is ended from outside: each session of the role auditor whose
-- transaction is open for longer than the limit. The instances call it, and log what it says.
CREATE FUNCTION end_long_audits(OUT audit_pid integer, OUT open_seconds double precision, OUT ended boolean)
    RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Twice what one statement of an auditor has, as init.sql sets it. Not an argument: the service may not choose it.
    longest CONSTANT interval := '60 s';
BEGIN
    FOR audit_pid, open_seconds IN
        SELECT a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)
        FROM pg_stat_get_activity(NULL) AS a
        WHERE a.usesysid = to_regrole('auditor') AND a.xact_start < clock_timestamp() - longest
    LOOP
        BEGIN
            ended := pg_terminate_backend(audit_pid);
        EXCEPTION
            WHEN insufficient_privilege THEN
                ended := false;
        END;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION end_long_audits IS 'Ends sessions of auditors whose transaction is open for longer than 60 s, and says which';

-- The configured fees that are new are valid from now on, or from ever for a processor that had none. The service may
-- not say since when: a fee of last January would change what settled months came to.
CREATE FUNCTION record_fees(processors text[], fees numeric[]) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    recorded bigint;
BEGIN
    INSERT INTO processor_fee (processor, valid_from, fee)
    SELECT c.processor, CASE WHEN known.fee IS NULL THEN '-infinity' ELSE clock_timestamp() END, c.fee
    FROM unnest(processors, fees) AS c (processor, fee)
    LEFT JOIN LATERAL (
        SELECT f.fee FROM processor_fee f
        WHERE f.processor = c.processor AND f.valid_from <= clock_timestamp()
        ORDER BY f.valid_from DESC LIMIT 1
    ) AS known ON true
    WHERE known.fee IS DISTINCT FROM c.fee
    ON CONFLICT ON CONSTRAINT processor_fee_pkey DO NOTHING;
    GET DIAGNOSTICS recorded = ROW_COUNT;
    RETURN recorded;
END $$;
COMMENT ON FUNCTION record_fees IS 'Writes down fees that are new, from now on, and returns how many there were';

REVOKE EXECUTE ON FUNCTION oldest_transaction_seconds(), end_long_audits(), record_fees(text[], numeric[]) FROM PUBLIC;

-- What was seen of an attempt is added to as long as its payment is open, and does not change after that, under the
-- time of the database. A row that would is left out without an error: a late failure is an opinion, and must not keep
-- what stands beside it from being written. Attempts that charged have no row here, so none of this is on the way of most
-- payments. The owner, who restores and repairs, is free.
CREATE FUNCTION payment_attempt_guard() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    IF pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.last_claim < OLD.last_claim
        OR EXISTS (SELECT FROM payment_processed p WHERE p.correlation_id = NEW.correlation_id)
        OR EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = NEW.correlation_id)
    THEN
        RETURN NULL;
    END IF;
    NEW.last_ended_at := statement_timestamp();
    IF TG_OP = 'INSERT' THEN
        NEW.first_ended_at := NEW.last_ended_at;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION payment_attempt_guard IS 'Trigger: but for the owner, attempts of open payments alone are added to';
CREATE TRIGGER payment_attempt_guard BEFORE INSERT OR UPDATE ON payment_attempt
    FOR EACH ROW EXECUTE FUNCTION payment_attempt_guard();
