-- A person who checks the books has a role of his own, which is a member of role auditor (CREATE ROLE anna LOGIN IN ROLE
-- auditor), and its snapshots keep vacuum from cleaning the queue as those of auditor itself do. So the sessions of
-- all members are ended: of those that act as auditor, or may choose to. Superusers, who are members of everything, and
-- whoever acts as the owner of this function (migrations, restores) are left alone, and so is what is open in other
-- databases. To end a session of another role, the owner has to be a member of that role or of pg_signal_backend.
DROP FUNCTION end_long_audits();
CREATE FUNCTION end_long_audits(
    OUT audit_pid integer, OUT open_seconds double precision, OUT ended boolean, OUT audit_role text
)
    RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Twice what one statement of an auditor has, as init.sql sets it. Not an argument: the service may not choose it.
    longest CONSTANT interval := '60 s';
    auditor CONSTANT oid := to_regrole('auditor');
    -- From PostgreSQL 16 on whoever makes a role is a member of it, and may neither act as it nor become it.
    chooses CONSTANT text := CASE WHEN current_setting('server_version_num')::integer >= 160000
        THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOR audit_pid, open_seconds, audit_role IN
        SELECT a.pid, extract(epoch FROM clock_timestamp() - a.xact_start), r.rolname
        FROM pg_stat_get_activity(NULL) AS a
        JOIN pg_roles r ON r.oid = a.usesysid
        JOIN pg_database d ON d.oid = a.datid AND d.datname = current_database()
        WHERE a.xact_start < clock_timestamp() - longest AND NOT r.rolsuper
            AND (pg_has_role(r.oid, auditor, 'USAGE') OR pg_has_role(r.oid, auditor, chooses))
            AND NOT pg_has_role(r.rolname, current_user, 'MEMBER')
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
COMMENT ON FUNCTION end_long_audits IS 'Ends sessions of members of role auditor whose transaction is open for longer than 60 s, and says which';
-- `migrate` grants it to the service.
REVOKE EXECUTE ON FUNCTION end_long_audits() FROM PUBLIC;
