-- Roles and database settings, run once by psql (15 or later): by the entrypoint of the postgres
-- image, by scripts/postgres.sh for the clusters of `make run` and `make test`, or by an
-- administrator. Running it again does no harm. There are no tables here: those are in migrations/,
-- which `payment-proxy migrate` applies as the role payment_proxy_owner; it also says there what
-- the service may do with them.
--
-- Whoever runs it is a superuser, or has CREATEROLE and CREATEDB, as administrators of managed
-- services do. What then cannot be done is told in a NOTICE, with what it costs.
--
-- The passwords come from the environment, so that none is in a file that everybody has.

\set ON_ERROR_STOP on
\getenv payment_proxy_password PAYMENT_PROXY_PASSWORD
\getenv owner_password PAYMENT_PROXY_OWNER_PASSWORD
\getenv auditor_password AUDITOR_PASSWORD
\if :{?payment_proxy_password}
\else
    \set payment_proxy_password ''
\endif
\if :{?owner_password}
\else
    \set owner_password ''
\endif
\if :{?auditor_password}
\else
    \set auditor_password ''
\endif
SELECT '' IN (:'payment_proxy_password', :'owner_password', :'auditor_password') AS password_missing \gset
\if :password_missing
    -- An error and not \quit, which would report success.
    DO $$ BEGIN
        RAISE EXCEPTION 'init.sql needs the environment variables PAYMENT_PROXY_PASSWORD, PAYMENT_PROXY_OWNER_PASSWORD and AUDITOR_PASSWORD, not empty';
    END $$;
\endif

-- payment_proxy_owner has the tables, for migrations and for what the service may not do by itself;
-- payment_proxy is the service; auditor is whoever checks the ledger.
SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['payment_proxy_owner', 'payment_proxy', 'auditor']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
-- They have none of these unless somebody gave it to them. Said only then: it takes a superuser.
SELECT format('ALTER ROLE %I %s', rolname, concat_ws(' ',
    CASE WHEN rolsuper THEN 'NOSUPERUSER' END, CASE WHEN rolcreatedb THEN 'NOCREATEDB' END,
    CASE WHEN rolcreaterole THEN 'NOCREATEROLE' END, CASE WHEN rolreplication THEN 'NOREPLICATION' END,
    CASE WHEN rolbypassrls THEN 'NOBYPASSRLS' END))
FROM pg_roles WHERE rolname IN ('payment_proxy_owner', 'payment_proxy', 'auditor')
    AND (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls) \gexec
ALTER ROLE payment_proxy_owner LOGIN PASSWORD :'owner_password';
ALTER ROLE payment_proxy LOGIN PASSWORD :'payment_proxy_password';
-- Few connections, so that no number of auditors can keep the service out.
ALTER ROLE auditor LOGIN CONNECTION LIMIT 5 PASSWORD :'auditor_password';

-- The owner's functions see and end the others' sessions: the age of what is open in the database,
-- and auditors that keep a transaction open for too long.
GRANT payment_proxy, auditor TO payment_proxy_owner;

-- To give something to the owner, and to act for it below, takes its rights. An administrator who
-- is no superuser may give them to himself, and does so until the end of this file; from PostgreSQL
-- 16 on, in these words.
SELECT NOT pg_has_role('payment_proxy_owner', 'USAGE') AS owner_is_lent \gset
\if :owner_is_lent
    SELECT 'GRANT payment_proxy_owner TO CURRENT_USER' || CASE
        WHEN current_setting('server_version_num')::integer >= 160000 THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END \gexec
\endif

-- There may be a database of that name already; then it changes hands.
SELECT 'CREATE DATABASE payments OWNER payment_proxy_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'payments') \gexec
SELECT 'ALTER DATABASE payments OWNER TO payment_proxy_owner' FROM pg_database
WHERE datname = 'payments' AND datdba <> 'payment_proxy_owner'::regrole \gexec
REVOKE ALL ON DATABASE payments FROM PUBLIC;
GRANT CONNECT ON DATABASE payments TO payment_proxy, auditor;
\if :owner_is_lent
    GRANT CONNECT ON DATABASE payments TO CURRENT_USER;
\endif

-- Whatever a session believes its time zone to be, instants are written and read in UTC.
ALTER DATABASE payments SET timezone = 'UTC';
-- All queries here are short. Compiling one costs more than it can save, and shows as a peak in
-- p99.
ALTER DATABASE payments SET jit = off;
-- The service opens short transactions only. One that idles has lost its client, while it holds row
-- locks that workers wait for, and a snapshot that keeps vacuum from cleaning the queue.
ALTER DATABASE payments SET idle_in_transaction_session_timeout = '10s';
-- A client that is gone gets its query stopped, instead of having it finished for nobody.
ALTER DATABASE payments SET client_connection_check_interval = '5s';

-- An auditor reads, and by accident does nothing else. The limit is for the queue: its vacuum
-- cannot clean up behind the oldest running query. Who lifts it is ended by the instances, which
-- call end_long_audits().
ALTER ROLE auditor IN DATABASE payments SET default_transaction_read_only = on;
ALTER ROLE auditor IN DATABASE payments SET statement_timeout = '30s';

\connect payments

-- It tells the age of what is open in the database, also of roles other than ours: one that stays
-- open keeps vacuum from cleaning the queue. The service itself sees its own sessions only.
DO $$ BEGIN
    GRANT pg_read_all_stats TO payment_proxy_owner;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'payment_proxy_owner is no member of pg_read_all_stats, which % may not grant: transactions of roles other than payment_proxy and auditor do not count in the metric oldest_transaction_seconds', current_user;
END $$;
-- Its function end_long_audits ends long transactions of roles that are members of auditor, such as
-- those of persons.
DO $$ BEGIN
    GRANT pg_signal_backend TO payment_proxy_owner;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'payment_proxy_owner is no member of pg_signal_backend, which % may not grant: long transactions of members of auditor are ended only where it is a member of that role, too (GRANT anna TO payment_proxy_owner)', current_user;
END $$;
-- Somebody may have granted pg_read_all_stats to the service, which would read the statements of
-- all roles, passwords included.
SELECT 'REVOKE pg_read_all_stats FROM payment_proxy' FROM pg_auth_members
WHERE roleid = 'pg_read_all_stats'::regrole AND member = 'payment_proxy'::regrole LIMIT 1 \gexec

-- Neither the service nor an auditor fills the disk. A sort that is too large for memory may take
-- so much of it for each session, wherever it runs.
DO $$ BEGIN
    ALTER ROLE auditor SET temp_file_limit = '1GB';
    ALTER ROLE payment_proxy SET temp_file_limit = '1GB';
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'temp_file_limit is not set for auditor and payment_proxy, which % may not: a large sort of theirs can fill the disk, unless the service provider limits it', current_user;
END $$;
-- Large objects and messages in the WAL are anybody's to write, and so are advisory locks to take,
-- until the memory for locks is full and every statement fails. Nothing here needs them but the
-- migrations, which lock with one.
CREATE TEMPORARY VIEW anybodys AS
SELECT p.oid, p.proname, p.proowner FROM pg_proc p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
    AND (p.proname ~ '^(lo_.*|loread|lowrite|pg_logical_emit_message)$' OR p.proname ~ '^pg_(try_)?advisory_')
    AND has_function_privilege('auditor', p.oid, 'EXECUTE');
SELECT 'REVOKE EXECUTE ON FUNCTION ' || string_agg(oid::regprocedure::text, ', ') || ' FROM PUBLIC',
    'GRANT EXECUTE ON FUNCTION ' || string_agg(oid::regprocedure::text, ', ') FILTER (WHERE proname ~ 'advisory')
        || ' TO payment_proxy_owner'
FROM anybodys WHERE pg_has_role(proowner, 'USAGE') \gexec
DO $$ BEGIN
    IF EXISTS (SELECT FROM anybodys) THEN
        RAISE NOTICE 'auditor and payment_proxy can write large objects and WAL messages and take advisory locks, because % may not revoke that from PUBLIC: with their passwords one can fill the disk, or the memory for locks', current_user;
    END IF;
END $$;
DROP VIEW anybodys;

-- Databases for administrators are not theirs: there they could make temporary tables. Who else
-- could log in there still can.
SELECT format('GRANT %s ON DATABASE %I TO %I', kept, d.datname, r.rolname)
FROM pg_database d, pg_roles r, unnest(ARRAY['CONNECT', 'TEMPORARY']) AS kept
WHERE d.datname IN ('postgres', 'template1') AND pg_has_role(d.datdba, 'USAGE')
    AND has_database_privilege('auditor', d.oid, 'CONNECT') AND has_database_privilege(r.oid, d.oid, kept)
    AND r.rolcanlogin AND NOT r.rolsuper
    AND r.rolname NOT IN ('payment_proxy_owner', 'payment_proxy', 'auditor') \gexec
SELECT format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', datname) FROM pg_database
WHERE datname IN ('postgres', 'template1') AND pg_has_role(datdba, 'USAGE')
    AND has_database_privilege('auditor', oid, 'CONNECT') \gexec
DO $$ DECLARE
    others text := (SELECT string_agg(datname, ', ' ORDER BY datname) FROM pg_database
        WHERE datname <> current_database() AND datallowconn AND has_database_privilege('auditor', oid, 'CONNECT'));
BEGIN
    IF others IS NOT NULL THEN
        RAISE NOTICE 'auditor and payment_proxy may connect to % as well, as all roles may, and write large objects there: REVOKE CONNECT ON DATABASE ... FROM PUBLIC keeps them out', others;
    END IF;
END $$;

-- Nobody but the owner makes anything here.
ALTER SCHEMA public OWNER TO payment_proxy_owner;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- Where one role had everything so far, the service's, it changes hands. The service's rights come
-- with the next `payment-proxy migrate`.
SELECT format('ALTER %s %s OWNER TO payment_proxy_owner', kind, name) FROM (
    SELECT 'SCHEMA' AS kind, quote_ident(nspname) AS name, nspowner AS owner FROM pg_namespace
    UNION ALL SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass::text, relowner
    FROM pg_class WHERE relkind IN ('r', 'p', 'v')
    UNION ALL SELECT 'FUNCTION', oid::regprocedure::text, proowner FROM pg_proc
) AS thing WHERE owner = 'payment_proxy'::regrole \gexec

-- Present tables and those that migrations will bring: no migration has to think of the auditor.
-- The schema audit is made by one (docs/auditing.md); it grants the same where it finds this role.
GRANT USAGE ON SCHEMA public TO auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor;
ALTER DEFAULT PRIVILEGES FOR ROLE payment_proxy_owner IN SCHEMA public GRANT SELECT ON TABLES TO auditor;
SELECT 'GRANT USAGE ON SCHEMA audit TO auditor', 'GRANT SELECT ON ALL TABLES IN SCHEMA audit TO auditor',
    'ALTER DEFAULT PRIVILEGES FOR ROLE payment_proxy_owner IN SCHEMA audit GRANT SELECT ON TABLES TO auditor'
WHERE EXISTS (SELECT FROM pg_namespace WHERE nspname = 'audit') \gexec

\if :owner_is_lent
    REVOKE payment_proxy_owner FROM CURRENT_USER;
\endif
