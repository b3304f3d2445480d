-- Roles and database settings, run once by psql (15 or later) as superuser: by the entrypoint of the
-- postgres image, and by scripts/postgres.sh for the clusters of `make run` and `make test`. Running
-- it again does no harm. There are no tables here: those are in migrations/, which `payment-proxy migrate`
-- applies as the role payment_proxy_owner; it also says there what the service may do with them.
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

-- Whose the tables are: for migrations, and for what the service may not do by itself.
SELECT 'CREATE ROLE payment_proxy_owner'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payment_proxy_owner') \gexec
ALTER ROLE payment_proxy_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'owner_password';

-- The service.
SELECT 'CREATE ROLE payment_proxy'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payment_proxy') \gexec
ALTER ROLE payment_proxy LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'payment_proxy_password';

-- It tells the age of the oldest transaction, also of other roles: one that stays open keeps vacuum from
-- cleaning the queue. Without this it would see its own only.
GRANT pg_read_all_stats TO payment_proxy;

-- Whoever checks the books. Few connections, so that no number of auditors can keep the service out.
SELECT 'CREATE ROLE auditor'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'auditor') \gexec
ALTER ROLE auditor LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 5 PASSWORD :'auditor_password';

-- The postgres image may have made the database already; then it changes hands.
SELECT 'CREATE DATABASE payments OWNER payment_proxy_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'payments') \gexec
ALTER DATABASE payments OWNER TO payment_proxy_owner;
REVOKE ALL ON DATABASE payments FROM PUBLIC;
GRANT CONNECT ON DATABASE payments TO payment_proxy, auditor;

-- Whatever a session believes its time zone to be, instants are written and read in UTC.
ALTER DATABASE payments SET timezone = 'UTC';
-- All queries here are short. Compiling one costs more than it can save, and shows as a peak in p99.
ALTER DATABASE payments SET jit = off;
-- The service opens short transactions only. One that idles has lost its client, while it holds row
-- locks that workers wait for, and a snapshot that keeps vacuum from cleaning the queue.
ALTER DATABASE payments SET idle_in_transaction_session_timeout = '10s';
-- A client that is gone gets its query stopped, instead of having it finished for nobody.
ALTER DATABASE payments SET client_connection_check_interval = '5s';

-- An auditor reads, and by accident does nothing else. The limit is for the queue: its vacuum cannot
-- clean up behind the oldest running query.
ALTER ROLE auditor IN DATABASE payments SET default_transaction_read_only = on;
ALTER ROLE auditor IN DATABASE payments SET statement_timeout = '30s';

\connect payments

-- Nobody but the owner makes anything here.
ALTER SCHEMA public OWNER TO payment_proxy_owner;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- In an installation of before there was an owner, all of it was the service's. Its rights come with the next
-- `payment-proxy migrate`.
SELECT format('ALTER %s %s OWNER TO payment_proxy_owner', kind, name) FROM (
    SELECT 'SCHEMA' AS kind, quote_ident(nspname) AS name, nspowner AS owner FROM pg_namespace
    UNION ALL SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass::text, relowner
    FROM pg_class WHERE relkind IN ('r', 'p', 'v')
    UNION ALL SELECT 'FUNCTION', oid::regprocedure::text, proowner FROM pg_proc
) AS thing WHERE owner = 'payment_proxy'::regrole \gexec

-- Present tables and those that migrations will bring: no migration has to think of the auditor. The
-- schema audit is made by one (docs/auditing.md); it grants the same where it finds this role.
GRANT USAGE ON SCHEMA public TO auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor;
ALTER DEFAULT PRIVILEGES FOR ROLE payment_proxy_owner IN SCHEMA public GRANT SELECT ON TABLES TO auditor;
SELECT 'GRANT USAGE ON SCHEMA audit TO auditor', 'GRANT SELECT ON ALL TABLES IN SCHEMA audit TO auditor',
    'ALTER DEFAULT PRIVILEGES FOR ROLE payment_proxy_owner IN SCHEMA audit GRANT SELECT ON TABLES TO auditor'
WHERE EXISTS (SELECT FROM pg_namespace WHERE nspname = 'audit') \gexec
